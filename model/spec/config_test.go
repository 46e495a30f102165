package spec_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/model/spec"
)

// smol is SmolLM2-135M's config.json, shortened.
const smol = `{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.04,
"intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
"model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
"pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
"rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 49152}`

// with is smol with pairs added; JSON's last key of a name wins.
func with(pairs string) string {
	return strings.TrimSuffix(smol, "}") + ", " + pairs + "}"
}

func TestParseConfig(t *testing.T) {
	want := spec.Config{
		Architecture: spec.Llama,
		Vocab:        49152, Width: 576, Layers: 30, Heads: 9, KVHeads: 3, HeadWidth: 64, FeedForward: 1536,
		NormEps: 1e-5, RopeTheta: 100000, Tied: true, MaxPositions: 8192,
		BOS: 1, EOS: []int{2}, Pad: 2,
	}
	got, err := spec.ParseConfig([]byte(smol))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got.Params() != 134515008 {
		t.Errorf("SmolLM2-135M: got %d parameters, want 134515008", got.Params())
	}
}

func TestParseConfigForms(t *testing.T) {
	llama3 := &spec.RopeScaling{Type: spec.RopeLlama3, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositions: 8192}
	for _, tt := range []struct {
		name, in string
		change   func(*spec.Config)
	}{
		{"old rope", with(`"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}`), func(c *spec.Config) {
			c.RopeTheta, c.RopeScaling = 5e5, &spec.RopeScaling{Type: spec.RopeLinear, Factor: 2}
		}},
		{"new rope", with(`"rope_theta": null, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
			"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}`), func(c *spec.Config) {
			c.RopeTheta, c.RopeScaling = 5e5, llama3
		}},
		{"llama3 of the whole length", with(`"rope_scaling": {"rope_type": "llama3", "factor": 8,
			"low_freq_factor": 1, "high_freq_factor": 4}`), func(c *spec.Config) { c.RopeScaling = llama3 }},
		{"default rope", with(`"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}`), func(c *spec.Config) { c.RopeTheta = 1e4 }},
		{"rope_scaling before rope_parameters", with(`"rope_scaling": {"rope_type": "linear", "factor": 2},
			"rope_parameters": {"rope_type": "default", "rope_theta": 7}`), func(c *spec.Config) {
			c.RopeScaling = &spec.RopeScaling{Type: spec.RopeLinear, Factor: 2}
		}},
		{"several ends", with(`"eos_token_id": [5, 7, 5]`), func(c *spec.Config) { c.EOS = []int{5, 7} }},
		{"no special tokens", with(`"eos_token_id": null, "bos_token_id": null, "pad_token_id": null`), func(c *spec.Config) {
			c.EOS, c.BOS, c.Pad = nil, -1, -1
		}},
		{"head width apart", with(`"head_dim": 32`), func(c *spec.Config) { c.HeadWidth = 32 }},
		{"all heads have keys", with(`"num_key_value_heads": null`), func(c *spec.Config) { c.KVHeads = 9 }},
		{"model_type alone", with(`"architectures": null`), func(*spec.Config) {}},
		{"mistral's window", with(`"architectures": ["MistralForCausalLM"], "sliding_window": 100`), func(c *spec.Config) {
			c.Architecture, c.SlidingWindow = spec.Mistral, 100
		}},
		{"mistral without window", with(`"architectures": ["MistralForCausalLM"], "sliding_window": null`), func(c *spec.Config) {
			c.Architecture = spec.Mistral
		}},
		{"mistral's defaults", `{"model_type": "mistral", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1,
			"num_attention_heads": 8, "intermediate_size": 3}`, func(c *spec.Config) {
			*c = spec.Config{
				Architecture: spec.Mistral, Vocab: 100, Width: 32, Layers: 1, Heads: 8, KVHeads: 8, HeadWidth: 4, FeedForward: 3,
				NormEps: 1e-6, RopeTheta: 10000, MaxPositions: 131072, SlidingWindow: 4096, BOS: 1, EOS: []int{2}, Pad: -1,
			}
		}},
		{"full attention said", with(`"layer_types": ["full_attention", "full_attention"]`), func(*spec.Config) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want, err := spec.ParseConfig([]byte(smol))
			if err != nil {
				t.Fatal(err)
			}
			tt.change(&want)
			got, err := spec.ParseConfig([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	const unsupported = true
	for _, tt := range []struct {
		in, want    string
		unsupported bool
	}{
		{``, "config.json: unexpected end of JSON input", false},
		{`[]`, "config.json: top level: array: want an object", false},
		{with(`"hidden_size": "wide"`), "config.json: hidden_size: string: want an integer", false},
		{with(`"num_key_value_heads": 1.5`), "config.json: num_key_value_heads: number 1.5: want an integer", false},
		{with(`"rope_scaling": {"factor": "2"}`), "config.json: rope_scaling.factor: string: want a number", false},
		{with(`"head_dim": 63, "rope_theta": 0`), "head_dim: 63: want an even number: rotary positions turn pairs; rope_theta: 0: want", false},
		{`{"model_type": "llama", "hidden_size": 4}`, "missing vocab_size, num_hidden_layers, num_attention_heads, intermediate_size", false},
		{with(`"num_attention_heads": 0`), "num_attention_heads: 0: want at least 1", false},
		{with(`"num_hidden_layers": 1000000000`), "num_hidden_layers: 1000000000: want 1 to 4096", false},
		{with(`"num_key_value_heads": 2`), "num_key_value_heads: 2: want a divisor of num_attention_heads, 9", false},
		{with(`"head_dim": 63`), "head_dim: 63: want an even number", false},
		{with(`"hidden_size": 577, "head_dim": 64`), "hidden_size: 577: want a multiple of num_attention_heads, 9", false},
		{with(`"rms_norm_eps": -1`), "rms_norm_eps: -1: want a number between 0 and 1", false},
		{with(`"rope_theta": 0`), "rope_theta: 0: want a number above 1", false},
		{with(`"bos_token_id": 49152`), "bos_token_id: 49152: not in the vocabulary of 49152", false},
		{with(`"eos_token_id": [2, -1]`), "eos_token_id: -1: not in the vocabulary", false},
		{with(`"rope_scaling": {"rope_type": "llama3", "factor": 8}`), "rope_scaling: rope_type llama3: missing low_freq_factor, high_freq_factor", false},
		{with(`"rope_scaling": {"rope_type": "linear", "factor": 0.5}`), "rope_scaling: factor: 0.5: want a number of at least 1", false},
		{with(`"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}`), "high_freq_factor: 4: want a number above low_freq_factor, 4", false},

		{with(`"architectures": ["GPT2LMHeadModel"]`), `architecture "GPT2LMHeadModel": want one of LlamaForCausalLM, MistralForCausalLM`, unsupported},
		{`{"model_type": "qwen3"}`, `architecture "qwen3": want one of`, unsupported},
		{with(`"hidden_act": "gelu"`), `hidden_act: "gelu": want silu`, unsupported},
		{with(`"attention_bias": true`), "attention_bias: true: want false", unsupported},
		{with(`"mlp_bias": true`), "mlp_bias: true: want false", unsupported},
		{with(`"attention_dropout": 0.1`), "attention_dropout: 0.1: want 0", unsupported},
		{with(`"partial_rotary_factor": 0.5`), "partial_rotary_factor: 0.5: want 1", unsupported},
		{with(`"quantization_config": {"quant_method": "gptq"}`), "quantization_config: want weights in f32, f16 or bf16", unsupported},
		{with(`"layer_types": ["sliding_attention"]`), `layer_types[0]: "sliding_attention": want full_attention`, unsupported},
		{with(`"rope_scaling": {"rope_type": "yarn", "factor": 8}`), `rope_scaling: rope_type "yarn": want one of default, linear, llama3`, unsupported},
		{with(`"rope_parameters": {"full_attention": {}}`), "rope_parameters: one entry per kind of layer", unsupported},
	} {
		_, err := spec.ParseConfig([]byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s\ngot error %v\nwant one line with %q", tt.in, err, tt.want)
			continue
		}
		if got := errors.Is(err, spec.ErrUnsupported); got != tt.unsupported {
			t.Errorf("%v: ErrUnsupported is %v, want %v", err, got, tt.unsupported)
		}
	}
}

func TestHuggingFaceRoundTrip(t *testing.T) {
	for _, in := range []string{
		smol,
		with(`"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}, "tie_word_embeddings": false`),
		with(`"rope_scaling": {"rope_type": "linear", "factor": 2.5}, "eos_token_id": [1, 2, 3], "pad_token_id": null`),
		with(`"architectures": ["MistralForCausalLM"], "sliding_window": 100, "head_dim": 32`),
		with(`"architectures": ["MistralForCausalLM"], "sliding_window": null, "bos_token_id": null, "eos_token_id": null`),
	} {
		want, err := spec.ParseConfig([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		b, err := want.HuggingFace("bf16")
		if err != nil {
			t.Fatal(err)
		}
		got, err := spec.ParseConfig(b)
		if err != nil {
			t.Fatalf("%v in\n%s", err, b)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v\nwant %+v\nof %s", got, want, b)
		}
	}
}

func TestPreset(t *testing.T) {
	for _, tt := range []struct {
		name   string
		tied   bool
		params int64
	}{
		{"preset://tiny", true, 198272},
		{"preset://tiny-untied", false, 198272 + 257*64},
	} {
		c, err := spec.Preset(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if c.Tied != tt.tied || c.Params() != tt.params {
			t.Errorf("%s: got tied %v, %d parameters, want %v, %d", tt.name, c.Tied, c.Params(), tt.tied, tt.params)
		}
	}
	if _, err := spec.Preset("preset://huge"); err == nil || !strings.Contains(err.Error(), "preset://tiny-untied") {
		t.Errorf("got error %v, want one that lists the presets", err)
	}
}

func TestValidateHuggingFaceDType(t *testing.T) {
	c, err := spec.Preset("preset://tiny")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.HuggingFace("int8"); err == nil || !strings.Contains(err.Error(), `dtype "int8": want one of f32, bf16, f16`) {
		t.Errorf("got error %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(smol))
	f.Add([]byte(with(`"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}`)))
	f.Add([]byte(with(`"architectures": ["MistralForCausalLM"], "eos_token_id": [1, 2], "layer_types": []`)))
	f.Add([]byte(`{"model_type": "mistral", "rope_parameters": {"rope_type": "default"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := spec.ParseConfig(b)
		if err != nil {
			return
		}
		// What is accepted can be planned and written again without loss.
		if len(c.InvFreq()) != c.HeadWidth/2 || c.Params() <= 0 {
			t.Fatalf("%+v: %d frequencies, %d parameters", c, len(c.InvFreq()), c.Params())
		}
		out, err := c.HuggingFace("f32")
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		again, err := spec.ParseConfig(out)
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("got %+v, %v\nwant %+v\nthrough %s", again, err, c, out)
		}
	})
}
