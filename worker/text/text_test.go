package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/generate"
	"github.com/zerofleet/zerofleet/test/fetch"
)

func tiny(out *bytes.Buffer) Options {
	return Options{Model: "preset://tiny", Prompt: "hello", Act: kernels.F32, Threads: 2, Out: out,
		Sampling: generate.Options{MaxTokens: 12}}
}

// A preset's random weights babble, but the same for the same options.
func TestRunPreset(t *testing.T) {
	run := func(change func(o *Options)) (string, Result) {
		t.Helper()
		var out bytes.Buffer
		o := tiny(&out)
		change(&o)
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return out.String(), r
	}
	want, r := run(func(*Options) {})
	if r.PromptTokens != 5 || len(r.Tokens) != 12 || r.Reason != generate.MaxTokens {
		t.Errorf("prompt of %d tokens, answer of %d (%s); want 5, 12 (length)", r.PromptTokens, len(r.Tokens), r.Reason)
	}
	if got, _ := run(func(*Options) {}); got != want {
		t.Errorf("greedy twice: %q and %q", got, want)
	}
	if got, _ := run(func(o *Options) { o.Seed = 9 }); got == want {
		t.Error("other weights gave the same text")
	}
	warm := func(o *Options) { o.Sampling.Temperature, o.Sampling.TopK = 1.5, 40 }
	a, _ := run(warm)
	if b, _ := run(warm); a != b {
		t.Errorf("one seed drew %q and %q", a, b)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(o *Options)
		want   string
	}{
		{"no model", func(o *Options) { o.Model = "" }, "no model: want a folder"},
		{"no such model", func(o *Options) { o.Model = "no/such/folder" }, "no/such/folder"},
		{"no such preset", func(o *Options) { o.Model = "preset://huge" }, "unknown preset"},
		{"no tokens wanted", func(o *Options) { o.Sampling.MaxTokens = 0 }, "max tokens 0"},
		{"an empty prompt", func(o *Options) { o.Prompt = "" }, "the prompt is empty"},
		{"a system message without a chat", func(o *Options) { o.System = "be brief" }, "a system message without a chat"},
		{"a type without kernels", func(o *Options) { o.Act = kernels.F16 }, "activations in f16"},
	} {
		var out bytes.Buffer
		o := tiny(&out)
		c.change(&o)
		_, err := Run(t.Context(), o)
		if err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want bad input with %q", c.name, err, c.want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: wrote %q", c.name, out.String())
		}
	}
	o := tiny(nil)
	o.Model = "no/such/folder"
	if _, err := Run(t.Context(), o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing model: %v, want the cause kept", err)
	}
}

// The whole way, GGUF to text: SmolLM2's chat answer is transformers'. The golden is made by tools/golden/smollm2.py.
func TestSmolLM2Chat(t *testing.T) {
	path := fetch.SmolLM2(t)
	raw, err := os.ReadFile(filepath.Join("..", "..", "model", "testdata", "smollm2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Question string `json:"question"`
		Tokens   []int32
		Greedy   []int32
		Text     string `json:"greedy_text"`
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, err := Run(t.Context(), Options{Model: path, Prompt: golden.Question, Chat: true, Act: kernels.F32, Threads: 2, Out: &out,
		Sampling: generate.Options{MaxTokens: len(golden.Greedy)}})
	if err != nil {
		t.Fatal(err)
	}
	if r.PromptTokens != len(golden.Tokens) {
		t.Errorf("prompt of %d tokens, want %d", r.PromptTokens, len(golden.Tokens))
	}
	if out.String() != golden.Text {
		t.Errorf("answer\n%q, want\n%q", out.String(), golden.Text)
	}
}
