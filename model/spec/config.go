// Package spec describes a decoder without computing it: its configuration, and the
// names, shapes and places of its tensors. It needs no kernels, so the coordinator can
// plan, check and export a model that it could never run.
//
// A Config comes from ParseConfig (a Hugging Face config.json), FromGGUF (a GGUF file's
// metadata) or Preset. A Config that one of them returned is valid; Validate checks one
// that was made by hand. Config.Units lists what ZeRO gathers, uses and frees as one.
package spec

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// The architectures, by the class name that config.json gives them.
const (
	Llama   = "LlamaForCausalLM"   // Llama 2 and 3.x, SmolLM2 and others of the shape
	Mistral = "MistralForCausalLM" // the same with an optional sliding window
)

// ErrUnsupported is wrapped by the error for a model that is well formed but needs what
// the decoder does not have (another architecture, biases, another activation). The
// caller tells the user to take another model.
var ErrUnsupported = errors.New("unsupported model")

// Config is a decoder of the Llama shape: RMSNorm, rotary positions, grouped-query
// attention, SwiGLU, no biases.
//
// Legend: V vocabulary, D width, H heads, G key/value heads, K head width, F feed-forward.
type Config struct {
	Architecture string // Llama or Mistral

	Vocab       int // V
	Width       int // D
	Layers      int // blocks
	Heads       int // H
	KVHeads     int // G; divides H
	HeadWidth   int // K; even. H*K need not be D
	FeedForward int // F

	NormEps     float64      // added to the mean square in every RMSNorm
	RopeTheta   float64      // base of the rotary frequencies
	RopeScaling *RopeScaling // nil: none

	Tied          bool // the head uses the embedding's matrix
	MaxPositions  int  // tokens the model was made for; longer works worse, not wrongly
	SlidingWindow int  // a token attends to this many tokens, itself included; 0: to all before it

	BOS int   // id of the token that begins a text; -1: none
	EOS []int // ids of the tokens that end one, each once; may be empty
	Pad int   // id of the padding token; -1: none
}

// The most that a configuration may ask for. They keep every product below 2^62 elements,
// and Units of a hostile file below a few MB.
const (
	maxVocab       = 1 << 24
	maxWidth       = 1 << 20
	maxFeedForward = 1 << 22
	maxLayers      = 1 << 12
	maxHeads       = 1 << 14
	maxHeadWidth   = 1 << 14
	maxPositions   = 1 << 30
	maxEOS         = 1 << 10
)

// Validate reports every fault at once, each by its config.json name.
func (c Config) Validate() error {
	var all faults
	fault := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }

	if c.Architecture != Llama && c.Architecture != Mistral {
		all = append(all, unsupportedArchitecture(c.Architecture))
	}
	for _, f := range []struct {
		name     string
		value    int
		min, max int
	}{
		{"vocab_size", c.Vocab, 1, maxVocab},
		{"hidden_size", c.Width, 1, maxWidth},
		{"num_hidden_layers", c.Layers, 1, maxLayers},
		{"num_attention_heads", c.Heads, 1, maxHeads},
		{"num_key_value_heads", c.KVHeads, 1, maxHeads},
		{"head_dim", c.HeadWidth, 2, maxHeadWidth},
		{"intermediate_size", c.FeedForward, 1, maxFeedForward},
		{"max_position_embeddings", c.MaxPositions, 1, maxPositions},
		{"sliding_window", c.SlidingWindow, 0, maxPositions},
	} {
		if f.value < f.min || f.value > f.max {
			fault("%s: %d: want %d to %d", f.name, f.value, f.min, f.max)
		}
	}
	if c.HeadWidth%2 != 0 {
		fault("head_dim: %d: want an even number: rotary positions turn pairs", c.HeadWidth)
	}
	if c.Heads > 0 && c.KVHeads > 0 && c.Heads%c.KVHeads != 0 {
		fault("num_key_value_heads: %d: want a divisor of num_attention_heads, %d", c.KVHeads, c.Heads)
	}
	if c.Heads > 0 && c.Architecture == Llama && c.Width%c.Heads != 0 {
		fault("hidden_size: %d: want a multiple of num_attention_heads, %d", c.Width, c.Heads)
	}
	if int64(c.Heads)*int64(c.HeadWidth) > maxWidth {
		fault("num_attention_heads x head_dim: %d x %d: want at most %d", c.Heads, c.HeadWidth, maxWidth)
	}
	if !(c.NormEps > 0 && c.NormEps < 1) {
		fault("rms_norm_eps: %v: want a number between 0 and 1", c.NormEps)
	}
	if !(c.RopeTheta > 1 && c.RopeTheta <= math.MaxFloat32) {
		fault("rope_theta: %v: want a number above 1", c.RopeTheta)
	}
	if c.RopeScaling != nil {
		all = append(all, c.RopeScaling.faults()...)
	}
	all = append(all, c.tokenFaults()...)
	return all.orNil()
}

// tokenFaults checks the special token ids against the vocabulary.
func (c Config) tokenFaults() faults {
	var all faults
	check := func(name string, id, min int) {
		if id < min || id >= c.Vocab {
			all = append(all, fmt.Errorf("%s: %d: not in the vocabulary of %d", name, id, c.Vocab))
		}
	}
	check("bos_token_id", c.BOS, -1)
	check("pad_token_id", c.Pad, -1)
	if len(c.EOS) > maxEOS {
		return append(all, fmt.Errorf("eos_token_id: %d ids: want at most %d", len(c.EOS), maxEOS))
	}
	for _, id := range c.EOS {
		check("eos_token_id", id, 0)
	}
	return all
}

func unsupportedArchitecture(name string) error {
	return fmt.Errorf("%w: architecture %q: want one of %s", ErrUnsupported, name, strings.Join([]string{Llama, Mistral}, ", "))
}
