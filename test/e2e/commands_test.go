package e2e_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run("launch", "job.yaml").wants(t, 0)

	p.run("export", "runs/job", "--out", "out").wants(t, 0, "out: the model of step 12")
	for _, name := range []string{"model.safetensors", "config.json", "tokenizer.json"} {
		if p.read("out", name) != p.read("runs/job/model", name) {
			t.Errorf("%s: export wrote something else than the run", name)
		}
	}
	p.run("export", "runs/job", "--out", "half", "--dtype", "bf16").wants(t, 0)
	if n, all := len(p.read("half/model.safetensors")), len(p.read("out/model.safetensors")); n > all*6/10 {
		t.Errorf("bf16 has %d bytes, f32 %d", n, all)
	}
	p.run("export", "runs/job", "--out", "no", "--dtype", "f8").wants(t, 2, "--dtype")
	p.run("export", "runs/nothing", "--out", "no").wants(t, 2, "runs/nothing")
	p.run("export", "runs/job").wants(t, 2, "out")
	for _, out := range []string{"text.txt", "runs", "nowhere/out"} {
		p.run("export", "runs/job", "--out", out).wants(t, 2, "--out: ", strings.TrimSuffix(out, "/out"))
	}

	answer := p.run("generate", "--model", "runs/job/model", "--prompt", "the quick", "--max-tokens", "8").wants(t, 0)
	if len(answer.out) < 2 || answer.errs != "" {
		t.Errorf("generate: %v", answer)
	}
	for name, args := range map[string][]string{
		"no such model":   {"--model", "nowhere", "--prompt", "a"},
		"no model":        {"--prompt", "a"},
		"an empty prompt": {"--model", "runs/job/model", "--prompt", ""},
		"a flag":          {"--mdl", "x"},
		"a precision":     {"--model", "runs/job/model", "--prompt", "a", "--precision", "f8"},
		"an argument":     {"--model", "runs/job/model", "--prompt", "a", "b"},
	} {
		e := p.run(append([]string{"generate"}, args...)...)
		if e.exit != 2 || e.out != "" || strings.Count(e.errs, "\n") != 1 {
			t.Errorf("generate with %s: %v", name, e)
		}
	}

	var plan map[string]any
	if err := json.Unmarshal([]byte(p.run("plan", "job.yaml", "-o", "json").wants(t, 0).out), &plan); err != nil || len(plan) == 0 {
		t.Errorf("plan: %v", err)
	}
	p.run("plan", "job.yaml").wants(t, 0, "MiB")
	p.run("plan", "job.yaml", "--set", "workers.device_memory_bytes=1MiB").wants(t, 2, "1.0 MiB")
	p.run("data", "show", "job.yaml", "-n", "2").wants(t, 0, "record 2: 16 tokens, 15 count", "the quick brow")
	p.run("data").wants(t, 2, "data --help")
	p.run("version").wants(t, 0, "zerofleet")
	p.run("nonsense").wants(t, 2, "nonsense")
	p.run("launch").wants(t, 2)
	p.run("hash", "runs/nothing").wants(t, 2, "runs/nothing")
	p.run("hash", "runs/job/model").wants(t, 2, "no optimizer state")
	p.run("status", "out").wants(t, 2, "out")
	p.run("status", "runs/nothing").wants(t, 2, "runs/nothing")
	p.run("checkpoints", "verify", "runs/nothing").wants(t, 2, "runs/nothing")

	written, err := os.ReadFile("../../docs/job.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.run("schema").wants(t, 0).out; got != string(written) {
		t.Errorf("schema prints %d bytes, docs/job.schema.json has %d others", len(got), len(written))
	}
	p.wantsNothingLeft()
}
