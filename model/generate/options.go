// Package generate makes a model go on with a text: token by token, greedily or sampled.
// Run drives a Model, which is anything that gives logits; Runner is the one that
// computes them, a model.Session on a kernels.Stream.
//
// What is generated is a function of the prompt, the Options and the logits' bits: the
// same seed on the same kernels gives the same text.
package generate

import (
	"errors"
	"fmt"
	"math"
)

// Options choose what follows a prompt. The zero value with MaxTokens set is greedy.
type Options struct {
	// MaxTokens is the most tokens that are added, at least 1.
	MaxTokens int
	// Temperature divides the logits. 0 takes the likeliest token: greedy.
	Temperature float64
	// TopK keeps the K likeliest tokens; 0 keeps all.
	TopK int
	// TopP keeps the likeliest tokens whose probabilities add up to P, that which reaches it
	// included; 0 and 1 keep all.
	TopP float64
	// RepetitionPenalty divides the positive logits and multiplies the negative ones of tokens that the
	// prompt or the answer has already: above 1 to discourage them; 0 and 1 do nothing.
	// Keskar et al. 2019, arXiv:1909.05858, section 4.1.
	RepetitionPenalty float64
	// Stop ends the text just before any of these strings.
	Stop []string
	// End are the tokens that end the text: they give no text themselves.
	End []int32
	// Seed chooses among what Temperature leaves open.
	Seed uint64
}

// Validate reports every fault at once.
func (o Options) Validate() error {
	var faults []error
	bad := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if o.MaxTokens < 1 {
		bad("max tokens %d: want at least 1", o.MaxTokens)
	}
	if !(o.Temperature >= 0 && o.Temperature <= math.MaxFloat32) {
		bad("temperature %v: want 0, for greedy, or more", o.Temperature)
	}
	if o.TopK < 0 {
		bad("top-k %d: want 0, for all, or more", o.TopK)
	}
	if !(o.TopP >= 0 && o.TopP <= 1) {
		bad("top-p %v: want 0 to 1", o.TopP)
	}
	if !(o.RepetitionPenalty >= 0 && o.RepetitionPenalty <= math.MaxFloat32) {
		bad("repetition penalty %v: want 0 or 1, for none, or another positive number", o.RepetitionPenalty)
	}
	for i, s := range o.Stop {
		if s == "" {
			bad("stop string %d is empty: it would end every text at once", i)
		}
	}
	return errors.Join(faults...)
}
