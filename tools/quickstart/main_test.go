package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFiles(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, folder := range []string{first, second} {
		if err := run(folder); err != nil {
			t.Fatal(err)
		}
	}
	questions := map[string]string{} // to the file it is in
	counts := map[string]int{}
	for _, name := range []string{"train.jsonl", "eval.jsonl"} {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two runs differ", name)
		}
		for line := range bytes.Lines(a) {
			var r struct{ Messages []message }
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("%s: %v in %s", name, err, line)
			}
			if len(r.Messages) != 2 || r.Messages[0].Role != "user" || r.Messages[1].Role != "assistant" {
				t.Fatalf("%s: %s", name, line)
			}
			question, answer := r.Messages[0].Content, r.Messages[1].Content
			if in, twice := questions[question]; twice {
				t.Errorf("%q is in %s and in %s", question, in, name)
			}
			if len(answer) < minAnswer || len(answer) > maxAnswer || strings.Contains(answer, "\n") {
				t.Errorf("%q: answer %q", question, answer)
			}
			questions[question] = name
			counts[name]++
		}
	}
	if questions["What does strings.Cut do?"] == "" {
		t.Error("strings.Cut is missing")
	}
	if train, eval := counts["train.jsonl"], counts["eval.jsonl"]; train < 3000 || eval*30 < train || eval*15 > train {
		t.Errorf("%d records to train on and %d held out: want thousands and about 5 %%", train, eval)
	}
}

func TestFilesOfOtherSystems(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       bool
	}{
		{"a.go", "package a", true},
		{"a_linux.go", "package a", true},
		{"a_windows.go", "package a", false},
		{"a_linux_arm64.go", "package a", false},
		{"a.go", "// x\n\n//go:build windows || darwin\n\npackage a", false},
		{"a.go", "//go:build unix && !cgo\n\npackage a", false},
		{"a.go", "//go:build unix\n\npackage a", true},
		{"a.go", "package a\n//go:build windows\n", true},
		{"a.go", "//go:build ignore\n\npackage a", false},
	} {
		if got := wanted(c.name, []byte(c.text)); got != c.want {
			t.Errorf("%s %q: got %v, want %v", c.name, c.text, got, c.want)
		}
	}
}
