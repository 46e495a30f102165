package e2e_test

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// edit rewrites a file as change does.
func (p *place) edit(name string, change func(string) string) {
	p.t.Helper()
	was := p.read(name)
	is := change(was)
	if is == was {
		p.t.Fatalf("%s: nothing to change in %s", name, was)
	}
	p.write(name, is)
}

func replace(old, new string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, new, 1) }
}

// tensor is an entry of a safetensors header.
type tensor struct {
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets [2]int `json:"data_offsets"`
}

// safetensors splits a file into its header and its data.
func safetensors(t *testing.T, file string) (map[string]tensor, string) {
	t.Helper()
	n := binary.LittleEndian.Uint64([]byte(file))
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(file[8:8+n]), &all); err != nil {
		t.Fatal(err)
	}
	delete(all, "__metadata__")
	tensors := map[string]tensor{}
	for name, raw := range all {
		var e tensor
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		tensors[name] = e
	}
	return tensors, file[8+n:]
}

// header changes the header of the model's safetensors file, and nothing of its data.
func header(change func(map[string]tensor)) func(*place) {
	return func(p *place) {
		p.edit("base/model.safetensors", func(file string) string {
			tensors, data := safetensors(p.t, file)
			change(tensors)
			return encode(p.t, tensors, data)
		})
	}
}

func encode(t *testing.T, tensors map[string]tensor, data string) string {
	t.Helper()
	b, err := json.Marshal(tensors)
	if err != nil {
		t.Fatal(err)
	}
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(b)))) + string(b) + data
}

// without leaves a tensor out, and its data.
func without(name string) func(*place) {
	return func(p *place) {
		p.edit("base/model.safetensors", func(file string) string {
			tensors, data := safetensors(p.t, file)
			left, kept := map[string]tensor{}, ""
			for _, n := range slices.SortedFunc(maps.Keys(tensors), func(a, b string) int { return tensors[a].Offsets[0] - tensors[b].Offsets[0] }) {
				if n != name {
					e := tensors[n]
					from := len(kept)
					kept += data[e.Offsets[0]:e.Offsets[1]]
					e.Offsets = [2]int{from, len(kept)}
					left[n] = e
				}
			}
			return encode(p.t, left, kept)
		})
	}
}

const normName = "model.norm.weight"

// What the user gave is looked at before anything is started: one line says what is wrong and where, and nothing is
// left behind.
func TestBadInput(t *testing.T) {
	t.Parallel()
	base := newPlace(t)
	base.run("launch", "job.yaml", "--set", "train.steps=1").wants(t, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	inFile := func(old, new string) func(*place) {
		return func(p *place) { p.edit("job.yaml", replace(old, new)) }
	}
	inConfig := func(old, new string) func(*place) {
		return func(p *place) { p.edit("base/config.json", replace(old, new)) }
	}
	inModel := func(change func(string) string) func(*place) {
		return func(p *place) { p.edit("base/model.safetensors", change) }
	}
	records := func(format string, lines ...string) func(*place) {
		return func(p *place) {
			p.write("data.jsonl", strings.Join(lines, "\n"))
			p.edit("job.yaml", replace("path: text.txt, format: text", "path: data.jsonl, format: "+format))
		}
	}
	model := []string{"--set", "model.base=base"}
	for _, c := range []struct {
		name   string
		change func(*place)
		args   []string
		words  []string
	}{
		{"no job file", func(p *place) { os.Remove(p.path("job.yaml")) }, nil, []string{"job.yaml"}},
		{"not YAML", func(p *place) { p.write("job.yaml", "a: [b\n") }, nil, []string{"job.yaml:"}},
		{"unknown field", inFile("global_batch_size", "global_bach_size"), nil, []string{"job.yaml:6:3", "global_bach_size", "global_batch_size"}},
		{"wrong type", inFile("steps: 12", "steps: many"), nil, []string{"job.yaml:5:10", "train.steps", "many"}},
		{"wrong --set", nil, []string{"--set", "train.stepz=3"}, []string{"--set train.stepz=3", `"steps"`}},
		{"a combination that cannot be", inFile("micro_batch_size: 1", "micro_batch_size: 3"), nil, []string{"job.yaml:", "global_batch_size", "micro_batch_size"}},
		{"steps and epochs", inFile("steps: 12", "steps: 12\n  epochs: 1"), nil, []string{"job.yaml:", "epochs", "steps"}},
		{"no workers", nil, []string{"--workers", "-1"}, []string{"workers.max"}},
		{"unknown flag", nil, []string{"--wrokers", "2"}, []string{"--wrokers"}},
		{"missing data file", func(p *place) { os.Remove(p.path("text.txt")) }, nil, []string{"job.yaml:3:", "data.train[0].path", "text.txt", "no such file"}},
		{"empty data file", func(p *place) { p.write("text.txt", "") }, nil, []string{"text.txt"}},
		{"missing model", nil, []string{"--set", "model.base=nowhere"}, []string{"model.base", "nowhere"}},
		{"unknown preset", nil, []string{"--set", "model.base=preset://huge"}, []string{"model.base", "preset://huge", "preset://tiny"}},
		{"truncated safetensors header", inModel(func(s string) string { return s[:100] }), model, []string{"model.safetensors", "header"}},
		{"safetensors of three bytes", inModel(func(s string) string { return s[:3] }), model, []string{"model.safetensors"}},
		{"oversized header length", inModel(func(s string) string { return "\xff\xff\xff\xff\xff\xff\xff\x7f" + s[8:] }), model, []string{"model.safetensors", "header"}},
		{"truncated safetensors data", inModel(func(s string) string { return s[:len(s)-4] }), model, []string{"model.safetensors"}},
		{"overlapping tensors", header(func(all map[string]tensor) {
			e := all[normName]
			e.Offsets = [2]int{e.Offsets[0] - 4, e.Offsets[1] - 4}
			all[normName] = e
		}), model, []string{"model.safetensors", "overlap"}},
		{"missing tensor", without(normName), model, []string{"model.base", "base: weights do not match config.json", normName}},
		{"wrong shape", header(func(all map[string]tensor) {
			e := all[normName]
			e.Shape = []int{8, 8}
			all[normName] = e
		}), model, []string{"model.base", "base: weights do not match config.json", normName, "[8 8]", "[64]"}},
		{"wrong dtype", header(func(all map[string]tensor) {
			e := all[normName]
			e.DType = "I32"
			all[normName] = e
		}), model, []string{"model.base", "base: weights do not match config.json", normName, "I32"}},
		{"unsupported architecture", inConfig("LlamaForCausalLM", "WhisperForCausalLM"), model, []string{"config.json", "WhisperForCausalLM"}},
		{"no config.json", func(p *place) { os.Remove(p.path("base/config.json")) }, model, []string{"model", "config.json"}},
		{"config.json that is none", func(p *place) { p.write("base/config.json", "{") }, model, []string{"config.json"}},
		{"heads that do not divide the width", inConfig(`"num_attention_heads": 4`, `"num_attention_heads": 5`), model, []string{"config.json"}},
		{"tokenizer larger than the vocabulary", func(p *place) {
			p.edit("base/tokenizer.json", replace(`"added_tokens":[`, `"added_tokens":[{"id":300,"content":"<more>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},`))
		}, model, []string{"tokenizer", "257"}},
		{"no tokenizer", func(p *place) { os.Remove(p.path("base/tokenizer.json")) }, model, []string{"tokenizer.json", "model.tokenizer"}},
		{"a JSONL line that does not parse", records("completion", `{"prompt": "a", "completion": "b"}`, `{"prompt": "a", `), nil, []string{"data.jsonl:2"}},
		{"a record without its field", records("completion", `{"prompt": "a", "completion": "b"}`, `{"prompt": "a"}`), nil, []string{"data.jsonl:2", "completion"}},
		{"an empty JSONL file", records("completion"), nil, []string{"data.jsonl"}},
		{"no trainable token", records("messages", `{"messages": [{"role": "user", "content": "hello"}]}`), nil, []string{"data"}},
		{"overlong: error", records("completion", `{"prompt": "a", "completion": "b"}`, `{"prompt": "a", "completion": "`+strings.Repeat("long ", 50)+`"}`), []string{"--set", "data.overlong=error"}, []string{"data.jsonl:2"}},
		{"port in use", nil, []string{"--listen", l.Addr().String()}, []string{"--listen " + l.Addr().String(), "in use"}},
		{"no address", nil, []string{"--listen", "nonsense"}, []string{"--listen nonsense"}},
		{"does not fit", nil, []string{"--set", "workers.device_memory_bytes=1MiB"}, []string{"1.0 MiB", "workers.device_memory_bytes"}},
		{"nothing to resume", nil, []string{"--resume", "nowhere"}, []string{"--resume nowhere"}},
		{"a model folder to resume", nil, []string{"--resume", "base"}, []string{"--resume base", "no optimizer state"}},
		{"a foreign folder as run folder", nil, []string{"--set", "output.dir=base"}, []string{"output.dir", "base"}},
		{"a file as run folder", nil, []string{"--set", "output.dir=text.txt"}, []string{"output.dir", "text.txt"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			if err := os.CopyFS(p.path("base"), os.DirFS(base.path("runs/job/model"))); err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				c.change(p)
			}
			before := p.tree(p.dir)
			e := p.run(append([]string{"launch", "job.yaml"}, c.args...)...)
			if e.exit != 2 || e.out != "" || !strings.HasPrefix(e.errs, "coordinator: ") || strings.Count(e.errs, "\n") != 1 {
				t.Errorf("want exit status 2 and one line, got %v", e)
			}
			for _, w := range c.words {
				if !strings.Contains(e.errs, w) {
					t.Errorf("want %q, got %v", w, e)
				}
			}
			if after := p.tree(p.dir); !slices.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
			p.wantsNothingLeft()
		})
	}
}

// All faults of a job file are told at once, each with its place.
func TestBadJobFileTellsAll(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.edit("job.yaml", replace("precision: f32", "precison: f32"))
	p.edit("job.yaml", replace("max: 2", "max: two"))
	e := p.run("launch", "job.yaml").wants(t, 2, "job.yaml:8:3: train.precison", "workers.max")
	if n := strings.Count(e.errs, "\n"); n != 2 {
		t.Errorf("%d lines, want one for each fault: %v", n, e)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "runs")); !os.IsNotExist(err) {
		t.Errorf("a run folder was left (%v)", err)
	}
}
