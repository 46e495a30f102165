// Command roundtrip says what zerofleet makes of texts: their tokens and every token's logits. roundtrip.py compares them
// with what transformers makes of the same texts and the same model folder.
//
//	go run ./tools/roundtrip -model RUN/model -precision bf16 <<<'{"texts": ["Hello"], "question": "Who are you?"}'
//
// It reads one JSON object from standard input and writes one to standard output. Logits travel as base64 of little-endian f32.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
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

type request struct {
	// Texts are encoded as they are, without a beginning token.
	Texts []string `json:"texts"`
	// Question is put into the model's chat template, as a user's, when the model has one.
	Question string `json:"question"`
}

// answer is of each text in turn, and then of the chat, if any.
type answer struct {
	Text    string  `json:"text"`
	Tokens  []int32 `json:"tokens"`
	Decoded string  `json:"decoded"`
	Logits  []byte  `json:"logits"` // [len(Tokens), V] f32
}

type options struct {
	model   string
	act     kernels.DType
	threads int
}

func main() {
	var o options
	var precision string
	flag.StringVar(&o.model, "model", "", "a Hugging Face folder, a .gguf file or preset://name")
	flag.StringVar(&precision, "precision", "f32", "compute in f32 or bf16")
	flag.IntVar(&o.threads, "threads", 0, "CPU threads; 0 is one per core")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := start(ctx, o, precision); err != nil {
		fmt.Fprintln(os.Stderr, "roundtrip:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, o options, precision string) error {
	switch precision {
	case "f32":
		o.act = kernels.F32
	case "bf16":
		o.act = kernels.BF16
	default:
		return fmt.Errorf("-precision %q: want f32 or bf16", precision)
	}
	return run(ctx, o, os.Stdin, os.Stdout)
}

func run(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	var q request
	if err := json.NewDecoder(in).Decode(&q); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	from, err := weights.Open(o.model, weights.Options{})
	if err != nil {
		return err
	}
	defer from.Close()
	tok, err := inputs.OpenTokenizer(o.model)
	if err != nil {
		return err
	}
	if err := tok.CheckVocab(from.Config().Vocab); err != nil {
		return err
	}
	answers, err := encode(tok, q)
	if err != nil {
		return err
	}
	if err := compute(ctx, o, from, answers); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(answers)
}

// encode makes the answers, all but their logits.
func encode(tok *tokenizer.Tokenizer, q request) ([]*answer, error) {
	texts := q.Texts
	if q.Question != "" && tok.ChatTemplate() != "" {
		template, err := tok.Template("", time.Now())
		if err != nil {
			return nil, err
		}
		chat, err := template.Render(tokenizer.Chat{Messages: []*jinja.Dict{tokenizer.Message("user", q.Question)}, Prompt: true})
		if err != nil {
			return nil, err
		}
		texts = append(texts, chat)
	}
	var answers []*answer
	for _, text := range texts {
		ids, err := tok.Encode(text, tokenizer.EncodeOptions{})
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return nil, fmt.Errorf("text %q has no tokens", text)
		}
		answers = append(answers, &answer{Text: text, Tokens: ids, Decoded: tok.Decode(ids, tokenizer.DecodeOptions{})})
	}
	return answers, nil
}

// compute fills in the logits.
func compute(ctx context.Context, o options, from weights.Source, answers []*answer) (err error) {
	longest := 1
	for _, a := range answers {
		longest = max(longest, len(a.Tokens))
	}
	dec, err := model.New(from.Config(), o.act)
	if err != nil {
		return err
	}
	backend, err := cpu.Open(cpu.Options{Threads: o.threads})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	r, err := generate.NewRunner(ctx, backend, dec, from, longest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for _, a := range answers {
		if err := r.Reset(); err != nil {
			return err
		}
		for i := range a.Tokens {
			logits, err := r.Extend(ctx, a.Tokens[i:i+1])
			if err != nil {
				return fmt.Errorf("token %d of %q: %w", i, a.Text, err)
			}
			for _, v := range logits {
				a.Logits = binary.LittleEndian.AppendUint32(a.Logits, math.Float32bits(v))
			}
		}
	}
	return nil
}
