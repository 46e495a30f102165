package data

import (
	"errors"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/tokenizer"
)

// Today is what a chat template is told that the date is when it asks: the date
// that Llama 3's own templates fall back to. Were it the clock's, two workers that
// encode the same record on two days would train on different tokens.
var Today = time.Date(2024, time.July, 26, 0, 0, 0, 0, time.UTC)

// NewEncoder encodes records with a model's tokenizer, and conversations with a
// template: nil means the model's own, which is only missed when a record needs it.
//
//	messages    the template's text; the assistant's turns count
//	completion  begin token, prompt, completion, end token; completion and end token count.
//	            Prompt and completion are encoded apart, as they are when text is generated.
//	text        begin token, text, end token; all count
//
// The begin token is the tokenizer's, if it has one; the end token its EOS.
func NewEncoder(t *tokenizer.Tokenizer, template *tokenizer.Template) Encoder {
	e := encoder{t: t, template: template, end: t.Special().EOS, pad: t.Special().Pad}
	if template == nil {
		e.template, e.missing = t.Template("", Today)
	}
	if e.pad == tokenizer.None {
		e.pad = max(e.end, 0)
	}
	return e
}

type encoder struct {
	t        *tokenizer.Tokenizer
	template *tokenizer.Template
	missing  error // why there is no template
	end, pad int32
}

func (e encoder) Vocab() int { return e.t.VocabSize() }
func (e encoder) Pad() int32 { return e.pad }

func (e encoder) Encode(r Record) (Document, error) {
	switch r.Format {
	case Messages:
		if e.missing != nil {
			return Document{}, fmt.Errorf("format messages: %w", e.missing)
		}
		return e.chat(r)
	case Completion:
		return e.pair(r.Prompt, r.Completion)
	case Text:
		return e.pair("", r.Text)
	}
	return Document{}, errors.New("record without a format")
}

func (e encoder) Decode(ids []int32) string { return e.t.Decode(ids, tokenizer.DecodeOptions{}) }

func (e encoder) chat(r Record) (Document, error) {
	if r.LossOn != OnAll {
		ids, counts, err := e.template.EncodeChat(r.Chat)
		return Document{ids, counts}, err
	}
	text, err := e.template.Render(r.Chat)
	if err != nil {
		return Document{}, err
	}
	ids, err := e.t.Encode(text, tokenizer.EncodeOptions{})
	return Document{ids, make([]bool, len(ids))}, err // all are marked by the caller
}

// pair encodes a prompt, which does not count, and what follows, which does. With
// an empty prompt the begin token counts too, which changes nothing: no token
// predicts it.
func (e encoder) pair(prompt, rest string) (d Document, err error) {
	d.Tokens, err = e.t.Encode(prompt, tokenizer.EncodeOptions{Begin: true})
	if err != nil {
		return Document{}, err
	}
	untrained := len(d.Tokens)
	more, err := e.t.Encode(rest, tokenizer.EncodeOptions{})
	if err != nil {
		return Document{}, err
	}
	d.Tokens = append(d.Tokens, more...)
	if n := len(d.Tokens); e.end != tokenizer.None && (n == untrained || d.Tokens[n-1] != e.end) {
		d.Tokens = append(d.Tokens, e.end)
	}
	d.Counts = make([]bool, len(d.Tokens))
	for i := untrained; i < len(d.Counts); i++ {
		d.Counts[i] = true
	}
	return d, nil
}
