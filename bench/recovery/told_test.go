package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// record is a run folder with these lines in it.
func record(t *testing.T, files map[string]string) *fleet {
	t.Helper()
	f := &fleet{place: &place{}, run: t.TempDir()}
	if err := os.Mkdir(filepath.Join(f.run, "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(f.run, name), []byte(strings.TrimLeft(text, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// A worker dies at second 10 in generation 1. The recovery in generation 2 fails, and 3 is settled.
var twice = map[string]string{
	"events.jsonl": `
{"time":"2026-01-01T00:00:01Z","type":"generation","fields":{"generation":"1"}}
{"time":"2026-01-01T00:00:02Z","type":"settled","fields":{"generation":"1","received_bytes":"0","restored_bytes":"0"}}
{"time":"2026-01-01T00:00:11Z","type":"generation_over","fields":{"generation":"1"}}
{"time":"2026-01-01T00:00:12Z","type":"worker_died"}
{"time":"2026-01-01T00:00:13Z","type":"generation","fields":{"generation":"2"}}
{"time":"2026-01-01T00:00:14Z","type":"worker_died"}
{"time":"2026-01-01T00:00:15Z","type":"generation","fields":{"generation":"3"}}
{"time":"2026-01-01T00:00:19Z","type":"settled","fields":{"generation":"3","received_bytes":"70","restored_bytes":"5"}}
{"time":"2026-01-01T00:00:30Z","type":"generation","fields":{"generation":"4"}}
{"time":"2026-01-01T00:00:31Z","type":"settled","fields":{"generation":"4","received_bytes":"1","restored_bytes":"0"}}
`,
	"metrics.jsonl": `
{"step":1,"time":"2026-01-01T00:00:09Z","generation":1,"world_size":4}
{"step":2,"time":"2026-01-01T00:00:25Z","generation":3,"world_size":2}
{"step":3,"time":"2026-01-01T00:00:27Z","generation":3,"world_size":2}
{"step":4,"time":"2026-01-01T00:00:28Z","generation":3,"world_size":2}
{"step":5,"ti`,
	"logs/worker-0.leaves": `
{"generation":1,"step":1,"leaf":0}
{"generation":1,"step":1,"committed":true}
{"generation":1,"step":2,"leaf":0}
{"generation":3,"step":2,"leaf":0}
{"generation":3,"step":2,"committed":true}
`,
	"logs/worker-1.leaves": `
{"generation":1,"step":1,"leaf":1}
{"generation":1,"step":1,"committed":true}
`,
}

func TestRecovered(t *testing.T) {
	f := record(t, twice)
	at := time.Date(2026, 1, 1, 0, 0, 10, 0, time.UTC)
	got, ok := f.recovered(at, 1, "worker_died")
	if want := (splits{Detect: 1, Agree: 4, Reshard: 4, Redo: 6, Total: 15, Workers: 2, MovedBytes: 70, RestoredBytes: 5}); !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, ok := f.recovered(at, 4, "worker_died"); ok {
		t.Error("recovered from generation 4, after which nothing comes")
	}
	if got := stepSeconds(f.steps(), 2); len(got) != 1 || got[0] != 1 {
		t.Errorf("seconds of steps %v, want [1]: not of the first in a generation, nor of the one after", got)
	}
}

func TestWorked(t *testing.T) {
	w, err := record(t, twice).worked()
	if err != nil {
		t.Fatal(err)
	}
	if w.redone(1) != 1 || w.redone(3) != 0 || w.by[1] != 2 || w.by[2] != 1 || w.committed[2] != 3 {
		t.Errorf("got %+v, want step 2 redone once", w)
	}
	again := record(t, map[string]string{"logs/worker-0.leaves": strings.Repeat(`{"generation":1,"step":1,"committed":true}`+"\n", 2)})
	if _, err := again.worked(); err == nil {
		t.Error("a step that is committed twice is taken")
	}
	gap := record(t, map[string]string{"metrics.jsonl": "{\"step\":1}\n{\"step\":3}\n"})
	if _, err := gap.once(); err == nil {
		t.Error("a step that has no line is not missed")
	}
}

func TestRestart(t *testing.T) {
	lines := []torchLine{
		{What: "step", Time: 9, Step: 7}, {What: "started", Time: 12, Restart: 1}, {What: "started", Time: 13, Restart: 1},
		{What: "imported", Time: 15, Restart: 1}, {What: "loaded", Time: 16, Restart: 1, Step: 6}, {What: "loaded", Time: 17, Restart: 1, Step: 6},
	}
	at := time.Unix(10, 0)
	if _, ok := restart(lines, at, 2); ok {
		t.Error("restarted before a step was done")
	}
	got, ok := restart(append(lines, torchLine{What: "step", Time: 18, Restart: 1, Step: 7}), at, 2)
	if want := (restarted{Started: 3, Imported: 5, Loaded: 7, Total: 8, Lost: 1, Attempts: 1}); !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
