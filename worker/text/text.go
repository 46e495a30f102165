// Package text makes a model on this machine go on with a text or answer in a chat: what
// `worker generate` does. Run opens the model and its tokenizer and writes the answer as it comes.
package text

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/generate"
	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/tokenizer"
	"github.com/zerofleet/zerofleet/tokenizer/jinja"
	"github.com/zerofleet/zerofleet/worker/inputs"
)

// ErrInput is wrapped by the errors that are about what the user gave: the model, the prompt, an option.
// The command exits with status 2.
var ErrInput = errors.New("bad input")

// badInput says what err says, and is an ErrInput.
type badInput struct{ error }

func (badInput) Is(target error) bool { return target == ErrInput }
func (b badInput) Unwrap() error      { return b.error }

// Options say what to generate with which model.
type Options struct {
	// Model is a Hugging Face folder, a .gguf file, hf://org/name or preset://name.
	Model  string
	Prompt string
	// Chat asks the model in its chat template, after System where that is not empty.
	Chat   bool
	System string
	// Seed of a preset's weights, and of sampling.
	Seed uint64
	// Act is the type to compute in: f32 or bf16.
	Act kernels.DType
	// Threads of the kernels; 0: one per core.
	Threads int
	// Sampling's End and Seed are set by Run.
	Sampling generate.Options
	Out      io.Writer
}

// Result tells what was made, and how long it took.
type Result struct {
	PromptTokens int
	generate.Result
	// Load is reading the weights, First the time from there to the first text, Rest from the first text to the end.
	Load, First, Rest time.Duration
}

// TokensPerSecond is the rate after the first token.
func (r Result) TokensPerSecond() float64 {
	if len(r.Tokens) < 2 || r.Rest <= 0 {
		return 0
	}
	return float64(len(r.Tokens)-1) / r.Rest.Seconds()
}

// Run writes the answer to o.Out, piece by piece.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.Sampling.Validate(); err != nil {
		return Result{}, badInput{err}
	}
	if o.Model == "" {
		return Result{}, badInput{errors.New("no model: want a folder, a .gguf file, hf://org/name or preset://name")}
	}
	path, err := inputs.Local(ctx, o.Model)
	if err != nil {
		return Result{}, badInput{err}
	}
	from, err := weights.Open(path, weights.Options{Seed: o.Seed})
	if err != nil {
		return Result{}, badInput{err}
	}
	defer from.Close()
	tok, err := inputs.OpenTokenizer(path)
	if err != nil {
		return Result{}, badInput{err}
	}
	if err := tok.CheckVocab(from.Config().Vocab); err != nil {
		return Result{}, badInput{err}
	}
	prompt, err := o.encode(tok)
	if err != nil {
		return Result{}, badInput{err}
	}
	return o.answer(ctx, from, tok, prompt)
}

// encode is the prompt's tokens.
func (o Options) encode(tok *tokenizer.Tokenizer) ([]int32, error) {
	text, how := o.Prompt, tokenizer.EncodeOptions{Begin: true}
	if o.Chat {
		template, err := tok.Template("", time.Now())
		if err != nil {
			return nil, err
		}
		var messages []*jinja.Dict
		if o.System != "" {
			messages = append(messages, tokenizer.Message("system", o.System))
		}
		messages = append(messages, tokenizer.Message("user", o.Prompt))
		if text, err = template.Render(tokenizer.Chat{Messages: messages, Prompt: true}); err != nil {
			return nil, err
		}
		how = tokenizer.EncodeOptions{}
	} else if o.System != "" {
		return nil, errors.New("a system message without a chat")
	}
	ids, err := tok.Encode(text, how)
	if err == nil && len(ids) == 0 {
		err = errors.New("the prompt is empty")
	}
	return ids, err
}

func (o Options) answer(ctx context.Context, from weights.Source, tok *tokenizer.Tokenizer, prompt []int32) (r Result, err error) {
	start := time.Now()
	dec, err := model.New(from.Config(), o.Act)
	if err != nil {
		return Result{}, badInput{err}
	}
	backend, err := cpu.Open(cpu.Options{Threads: o.Threads})
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	runner, err := generate.NewRunner(ctx, backend, dec, from, len(prompt)+o.Sampling.MaxTokens)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, runner.Close()) }()
	r = Result{PromptTokens: len(prompt), Load: time.Since(start)}

	how := o.Sampling
	how.Seed = o.Seed
	how.End = endTokens(tok, from.Config().EOS)
	start = time.Now()
	text := &firstToken{Text: tok.Stream(tokenizer.DecodeOptions{SkipSpecial: true})}
	r.Result, err = generate.Run(ctx, runner, text, prompt, how, func(piece string) error {
		if _, err := io.WriteString(o.Out, piece); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
		return nil
	})
	if !text.at.IsZero() {
		r.First, r.Rest = text.at.Sub(start), time.Since(text.at)
	}
	return r, err
}

// firstToken notes when the first token came.
type firstToken struct {
	generate.Text
	at time.Time
}

func (f *firstToken) Push(token int32) string {
	if f.at.IsZero() {
		f.at = time.Now()
	}
	return f.Text.Push(token)
}

// endTokens are the tokens that end a text: the tokenizer's and the configuration's.
func endTokens(tok *tokenizer.Tokenizer, eos []int) []int32 {
	end := slices.Clone(tok.Special().Stop)
	for _, id := range eos {
		if !slices.Contains(end, int32(id)) {
			end = append(end, int32(id))
		}
	}
	return end
}
