package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// maxConfigBytes bounds a config.json; real ones have a few KB.
const maxConfigBytes = 1 << 20

// configFile is what config.json may say about the decoder. A pointer is nil when the key
// is absent or null; optional tells the two apart where transformers does.
type configFile struct {
	Architectures []string `json:"architectures"`
	ModelType     string   `json:"model_type"`

	Vocab        *int          `json:"vocab_size"`
	Width        *int          `json:"hidden_size"`
	Layers       *int          `json:"num_hidden_layers"`
	Heads        *int          `json:"num_attention_heads"`
	KVHeads      optional[int] `json:"num_key_value_heads"`
	HeadWidth    *int          `json:"head_dim"`
	FeedForward  *int          `json:"intermediate_size"`
	MaxPositions *int          `json:"max_position_embeddings"`
	Window       optional[int] `json:"sliding_window"`

	NormEps        *float64  `json:"rms_norm_eps"`
	RopeTheta      *float64  `json:"rope_theta"`
	RopeScaling    *ropeFile `json:"rope_scaling"`
	RopeParameters *ropeFile `json:"rope_parameters"`
	Tied           *bool     `json:"tie_word_embeddings"`

	BOS optional[int] `json:"bos_token_id"`
	EOS optional[ids] `json:"eos_token_id"`
	Pad *int          `json:"pad_token_id"`

	// Refused unless they say what the decoder does.
	Activation    *string         `json:"hidden_act"`
	AttentionBias *bool           `json:"attention_bias"`
	MLPBias       *bool           `json:"mlp_bias"`
	Dropout       *float64        `json:"attention_dropout"`
	Partial       *float64        `json:"partial_rotary_factor"`
	Quantization  json.RawMessage `json:"quantization_config"`
	LayerTypes    []string        `json:"layer_types"`
}

// ropeFile is rope_scaling, or the newer rope_parameters that also holds the base.
type ropeFile struct {
	Type                 string   `json:"rope_type"`
	OldType              string   `json:"type"`
	Theta                *float64 `json:"rope_theta"`
	Factor               *float64 `json:"factor"`
	LowFreqFactor        *float64 `json:"low_freq_factor"`
	HighFreqFactor       *float64 `json:"high_freq_factor"`
	OriginalMaxPositions *int     `json:"original_max_position_embeddings"`
	Partial              *float64 `json:"partial_rotary_factor"`

	// Keys of a table with one entry per kind of layer.
	Full    json.RawMessage `json:"full_attention"`
	Sliding json.RawMessage `json:"sliding_attention"`
}

// optional is a value with three states: absent, null, given.
type optional[T any] struct {
	present bool
	value   *T
}

func (o *optional[T]) UnmarshalJSON(b []byte) error {
	o.present = true
	return json.Unmarshal(b, &o.value)
}

// or is the value, or absent's when the key is absent, or null's when it is null.
func (o optional[T]) or(absent, null T) T {
	switch {
	case !o.present:
		return absent
	case o.value == nil:
		return null
	}
	return *o.value
}

// ids is one token id or a list of them.
type ids []int

func (l *ids) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]int)(l))
	}
	var id int
	if err := json.Unmarshal(b, &id); err != nil {
		return err
	}
	*l = ids{id}
	return nil
}

// ParseConfig reads a Hugging Face config.json. Absent keys take the defaults of
// transformers' LlamaConfig or MistralConfig, except the sizes, which must be there.
// Both forms of the rotary settings are read: rope_theta with rope_scaling, and
// rope_parameters. The error wraps ErrUnsupported when the file is sound but the decoder
// lacks what it asks for.
func ParseConfig(b []byte) (Config, error) {
	if len(b) > maxConfigBytes {
		return Config{}, fmt.Errorf("config.json: %d bytes: want at most %d", len(b), maxConfigBytes)
	}
	var f configFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", jsonFault(err))
	}
	architecture, err := f.architecture()
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	if err := f.unsupported(); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	c, err := f.config(architecture)
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

// jsonFault puts a value of the wrong type in the file's words instead of Go's.
func jsonFault(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	where := wrong.Field
	if where == "" {
		where = "top level"
	}
	want := map[reflect.Kind]string{
		reflect.Int: "an integer", reflect.Float64: "a number", reflect.Bool: "true or false",
		reflect.String: "a string", reflect.Slice: "a list", reflect.Struct: "an object",
	}[wrong.Type.Kind()]
	return fmt.Errorf("%s: %s: want %s", where, wrong.Value, want)
}

// architecture is the class that config.json names, or that its model_type stands for.
func (f configFile) architecture() (string, error) {
	for _, name := range f.Architectures {
		if name == Llama || name == Mistral {
			return name, nil
		}
	}
	if len(f.Architectures) > 0 {
		return "", unsupportedArchitecture(f.Architectures[0])
	}
	switch f.ModelType {
	case "llama":
		return Llama, nil
	case "mistral":
		return Mistral, nil
	}
	return "", unsupportedArchitecture(f.ModelType)
}

// unsupported names every setting that the decoder does not have.
func (f configFile) unsupported() error {
	var all faults
	refuse := func(format string, args ...any) {
		all = append(all, fmt.Errorf("%w: "+format, append([]any{ErrUnsupported}, args...)...))
	}
	if f.Activation != nil && *f.Activation != "silu" && *f.Activation != "swish" {
		refuse("hidden_act: %q: want silu", *f.Activation)
	}
	if f.AttentionBias != nil && *f.AttentionBias {
		refuse("attention_bias: true: want false")
	}
	if f.MLPBias != nil && *f.MLPBias {
		refuse("mlp_bias: true: want false")
	}
	if f.Dropout != nil && *f.Dropout != 0 {
		refuse("attention_dropout: %v: want 0", *f.Dropout)
	}
	if f.Partial != nil && *f.Partial != 1 {
		refuse("partial_rotary_factor: %v: want 1", *f.Partial)
	}
	if len(f.Quantization) > 0 && !bytes.Equal(f.Quantization, []byte("null")) {
		refuse("quantization_config: want weights in f32, f16 or bf16")
	}
	for i, kind := range f.LayerTypes {
		if kind != "full_attention" {
			refuse("layer_types[%d]: %q: want full_attention", i, kind)
			break
		}
	}
	for _, r := range []struct {
		name string
		file *ropeFile
	}{{"rope_scaling", f.RopeScaling}, {"rope_parameters", f.RopeParameters}} {
		if r.file == nil {
			continue
		}
		if r.file.Partial != nil && *r.file.Partial != 1 {
			refuse("%s: partial_rotary_factor: %v: want 1", r.name, *r.file.Partial)
		}
		if r.file.Full != nil || r.file.Sliding != nil {
			refuse("%s: one entry per kind of layer: want one for all", r.name)
		}
	}
	return all.orNil()
}

// config applies transformers' defaults; the sizes have none.
func (f configFile) config(architecture string) (Config, error) {
	var missing []string
	need := func(name string, p *int) int {
		if p == nil {
			missing = append(missing, name)
			return 0
		}
		return *p
	}
	c := Config{
		Architecture: architecture,
		Vocab:        need("vocab_size", f.Vocab),
		Width:        need("hidden_size", f.Width),
		Layers:       need("num_hidden_layers", f.Layers),
		Heads:        need("num_attention_heads", f.Heads),
		FeedForward:  need("intermediate_size", f.FeedForward),
		NormEps:      or(f.NormEps, 1e-6),
		Tied:         or(f.Tied, false),
		BOS:          f.BOS.or(1, -1),
		EOS:          unique(f.EOS.or(ids{2}, nil)),
		Pad:          or(f.Pad, -1),
	}
	if len(missing) > 0 {
		return Config{}, fmt.Errorf("missing %s", strings.Join(missing, ", "))
	}
	if c.Heads < 1 {
		return Config{}, fmt.Errorf("num_attention_heads: %d: want at least 1", c.Heads)
	}
	c.HeadWidth = or(f.HeadWidth, c.Width/c.Heads)
	if architecture == Mistral {
		c.KVHeads = f.KVHeads.or(8, c.Heads)
		c.MaxPositions = or(f.MaxPositions, 131072)
		c.SlidingWindow = f.Window.or(4096, 0)
	} else {
		c.KVHeads = f.KVHeads.or(c.Heads, c.Heads)
		c.MaxPositions = or(f.MaxPositions, 2048)
	}
	return c, f.rope(&c)
}

// rope reads the rotary settings in transformers' order of priority: rope_scaling before
// rope_parameters, and a rope_theta inside either before the one outside.
func (f configFile) rope(c *Config) error {
	r, where := f.RopeScaling, "rope_scaling"
	if r == nil {
		r, where = f.RopeParameters, "rope_parameters"
	}
	c.RopeTheta = or(f.RopeTheta, 10000)
	if r == nil {
		return nil
	}
	c.RopeTheta = or(r.Theta, c.RopeTheta)
	kind := r.Type
	if kind == "" {
		kind = r.OldType
	}
	switch kind {
	case "", "default":
		return nil
	case RopeLinear, RopeLlama3:
	default:
		return fmt.Errorf("%w: %s: rope_type %q: want one of default, %s, %s", ErrUnsupported, where, kind, RopeLinear, RopeLlama3)
	}
	var missing []string
	need := func(name string, p *float64) float64 {
		if p == nil {
			missing = append(missing, name)
			return 0
		}
		return *p
	}
	s := RopeScaling{Type: kind, Factor: need("factor", r.Factor)}
	if kind == RopeLlama3 {
		s.LowFreqFactor = need("low_freq_factor", r.LowFreqFactor)
		s.HighFreqFactor = need("high_freq_factor", r.HighFreqFactor)
		s.OriginalMaxPositions = or(r.OriginalMaxPositions, c.MaxPositions)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s: rope_type %s: missing %s", where, kind, strings.Join(missing, ", "))
	}
	c.RopeScaling = &s
	return nil
}

func or[T any](p *T, absent T) T {
	if p == nil {
		return absent
	}
	return *p
}

// unique keeps the first of each id, in order; nil stays nil.
func unique(in []int) []int {
	seen := make(map[int]bool, len(in))
	var out []int
	for _, id := range in {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}
