package spec

import (
	"encoding/json"
	"fmt"
)

// outFile is the config.json that HuggingFace writes. The rotary settings are in the older
// form, rope_theta with rope_scaling, which transformers 4 and 5 both read; so is
// torch_dtype.
type outFile struct {
	Architectures  []string `json:"architectures"`
	AttentionBias  *bool    `json:"attention_bias,omitempty"`
	Dropout        float64  `json:"attention_dropout"`
	BOS            *int     `json:"bos_token_id"`
	EOS            any      `json:"eos_token_id"`
	HeadWidth      int      `json:"head_dim"`
	Activation     string   `json:"hidden_act"`
	Width          int      `json:"hidden_size"`
	InitializerStd float64  `json:"initializer_range"`
	FeedForward    int      `json:"intermediate_size"`
	MaxPositions   int      `json:"max_position_embeddings"`
	MLPBias        *bool    `json:"mlp_bias,omitempty"`
	ModelType      string   `json:"model_type"`
	Heads          int      `json:"num_attention_heads"`
	Layers         int      `json:"num_hidden_layers"`
	KVHeads        int      `json:"num_key_value_heads"`
	Pad            *int     `json:"pad_token_id"`
	NormEps        float64  `json:"rms_norm_eps"`
	RopeScaling    *outRope `json:"rope_scaling"`
	RopeTheta      float64  `json:"rope_theta"`
	Window         **int    `json:"sliding_window,omitempty"`
	Tied           bool     `json:"tie_word_embeddings"`
	DType          string   `json:"torch_dtype"`
	UseCache       bool     `json:"use_cache"`
	Vocab          int      `json:"vocab_size"`
}

type outRope struct {
	Factor               float64 `json:"factor"`
	HighFreqFactor       float64 `json:"high_freq_factor,omitempty"`
	LowFreqFactor        float64 `json:"low_freq_factor,omitempty"`
	OriginalMaxPositions int     `json:"original_max_position_embeddings,omitempty"`
	Type                 string  `json:"rope_type"`
}

// torchNames are torch's names of the dtypes that a folder's weights may have.
var torchNames = map[string]string{"f32": "float32", "bf16": "bfloat16", "f16": "float16"}

// HuggingFace returns a config.json that transformers loads and that ParseConfig reads
// back as c. dtype is what the weights beside it are in: f32, bf16 or f16.
func (c Config) HuggingFace(dtype string) ([]byte, error) {
	torchName, ok := torchNames[dtype]
	if !ok {
		return nil, fmt.Errorf("write config.json: dtype %q: want one of f32, bf16, f16", dtype)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("write config.json: %w", err)
	}
	f := outFile{
		Architectures: []string{c.Architecture},
		BOS:           id(c.BOS), EOS: eos(c.EOS), Pad: id(c.Pad),
		HeadWidth: c.HeadWidth, Activation: "silu", Width: c.Width, InitializerStd: 0.02,
		FeedForward: c.FeedForward, MaxPositions: c.MaxPositions,
		Heads: c.Heads, Layers: c.Layers, KVHeads: c.KVHeads,
		NormEps: c.NormEps, RopeTheta: c.RopeTheta,
		Tied: c.Tied, DType: torchName, UseCache: true, Vocab: c.Vocab,
	}
	if s := c.RopeScaling; s != nil {
		f.RopeScaling = &outRope{
			Type: s.Type, Factor: s.Factor,
			LowFreqFactor: s.LowFreqFactor, HighFreqFactor: s.HighFreqFactor, OriginalMaxPositions: s.OriginalMaxPositions,
		}
	}
	if c.Architecture == Mistral {
		var window *int // null, not absent, means no window: the class default is 4096
		if c.SlidingWindow > 0 {
			window = &c.SlidingWindow
		}
		f.ModelType, f.Window = "mistral", &window
	} else {
		f.ModelType, f.AttentionBias, f.MLPBias = "llama", new(bool), new(bool)
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write config.json: %w", err)
	}
	return append(b, '\n'), nil
}

// GenerationConfig returns the generation_config.json that goes with HuggingFace's file:
// the tokens that begin and end a text.
func (c Config) GenerationConfig() ([]byte, error) {
	f := struct {
		FromModel bool `json:"_from_model_config"`
		BOS       *int `json:"bos_token_id,omitempty"`
		EOS       any  `json:"eos_token_id,omitempty"`
		Pad       *int `json:"pad_token_id,omitempty"`
	}{true, id(c.BOS), eos(c.EOS), id(c.Pad)}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write generation_config.json: %w", err)
	}
	return append(b, '\n'), nil
}

// id is nil, so null in JSON, for a token that the model does not have.
func id(token int) *int {
	if token < 0 {
		return nil
	}
	return &token
}

// eos is null, one id or a list, as transformers writes it.
func eos(tokens []int) any {
	switch len(tokens) {
	case 0:
		return nil
	case 1:
		return tokens[0]
	}
	return tokens
}
