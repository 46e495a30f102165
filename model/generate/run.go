package generate

import (
	"context"
	"fmt"
	"slices"
)

// Model computes logits for a growing sequence.
type Model interface {
	// Vocab is the number of logits.
	Vocab() int
	// Room is how many more tokens the sequence can take.
	Room() int
	// Extend appends tokens, at least one, and returns the logits that follow the last, [Vocab].
	// The caller may change them.
	Extend(ctx context.Context, tokens []int32) ([]float32, error)
}

// Text turns tokens into text as they come. tokenizer.Stream is one.
type Text interface {
	// Push returns the text that is certain after one more token.
	Push(token int32) string
	// Flush returns what was held back.
	Flush() string
}

// Reason is why a text ended.
type Reason string

// The reasons.
const (
	EndToken   Reason = "end"    // the model ended it
	StopString Reason = "stop"   // a stop string came
	MaxTokens  Reason = "length" // MaxTokens were added
	NoRoom     Reason = "room"   // the model's sequence is full
)

// Result is what a Run made.
type Result struct {
	// Tokens are what was added, the end token included when one came.
	Tokens []int32
	Reason Reason
}

// Run goes on after prompt, at least one token, and hands each piece of new text to emit as soon as
// it is certain. It ends with emit's error when that returns one. The pieces together are the answer.
func Run(ctx context.Context, m Model, text Text, prompt []int32, o Options, emit func(string) error) (Result, error) {
	if err := o.Validate(); err != nil {
		return Result{}, fmt.Errorf("generate: %w", err)
	}
	if len(prompt) == 0 || len(prompt) > m.Room() {
		return Result{}, fmt.Errorf("generate: a prompt of %d tokens: want 1 to %d", len(prompt), m.Room())
	}
	s := newSampler(o, m.Vocab())
	for i, t := range prompt {
		if t < 0 || int(t) >= m.Vocab() {
			return Result{}, fmt.Errorf("generate: prompt token %d is %d: not in the vocabulary of %d", i, t, m.Vocab())
		}
		s.saw(t)
	}
	var r Result
	stops := &stopper{stops: o.Stop}
	for next := prompt; ; {
		logits, err := m.Extend(ctx, next)
		if err != nil {
			return r, fmt.Errorf("generate token %d: %w", len(r.Tokens), err)
		}
		token, err := s.next(logits)
		if err != nil {
			return r, fmt.Errorf("generate token %d: %w", len(r.Tokens), err)
		}
		r.Tokens = append(r.Tokens, token)
		s.saw(token)
		if slices.Contains(o.End, token) {
			r.Reason = EndToken
			return r, finish(stops, text, emit)
		}
		out, stopped := stops.push(text.Push(token))
		if err := give(emit, out); err != nil {
			return r, err
		}
		switch {
		case stopped:
			r.Reason = StopString
			return r, nil
		case len(r.Tokens) == o.MaxTokens:
			r.Reason = MaxTokens
			return r, finish(stops, text, emit)
		case m.Room() == 0:
			r.Reason = NoRoom
			return r, finish(stops, text, emit)
		}
		next = r.Tokens[len(r.Tokens)-1:]
	}
}

// finish emits what was held back: the bytes of half a character may still complete a stop string.
func finish(stops *stopper, text Text, emit func(string) error) error {
	out, stopped := stops.push(text.Flush())
	if !stopped {
		out += stops.flush()
	}
	return give(emit, out)
}

func give(emit func(string) error, text string) error {
	if text == "" {
		return nil
	}
	return emit(text)
}
