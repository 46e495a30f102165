package tokenizer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/zerofleet/zerofleet/tokenizer/jinja"
)

// EncodeChat returns the ids of a whole conversation and which of them the
// assistant says: its turns, with the tokens that end them. A token is the
// assistant's when its first byte is.
//
// What the assistant says is what the template marks with {% generation %}, or
// else what Turns finds; where that is not certain it is an error, since a wrong
// mark would train the model on the user's words.
func (tm *Template) EncodeChat(c Chat) (ids []int32, assistant []bool, err error) {
	text, spans, err := tm.Turns(c)
	if err != nil {
		return nil, nil, err
	}
	ids, starts, err := tm.t.EncodeOffsets(text, EncodeOptions{})
	if err != nil {
		return nil, nil, err
	}
	assistant = make([]bool, len(ids))
	k := 0
	for i, at := range starts {
		for k < len(spans) && at >= spans[k].End {
			k++
		}
		assistant[i] = k < len(spans) && at >= spans[k].Start
	}
	return ids, assistant, nil
}

// ErrTurns is the error of a template by which an assistant's turn cannot be told
// from what is around it. Marking it in the template, with {% generation %},
// always helps.
var ErrTurns = errors.New("cannot tell what the assistant says: put {% generation %} ... {% endgeneration %} around it in the chat template")

// Turns returns the conversation's text and the assistant's turns in it.
//
// Without {% generation %} a turn begins where the messages before it, with the
// generation prompt, end, and it ends where the messages up to it end. Templates
// that render a turn differently once more follows (Qwen3 leaves out old thoughts)
// or that always end with a generation prompt (Llama 3's first) need more: a
// rendering in which a marker stands for what was said shows what comes after.
func (tm *Template) Turns(c Chat) (string, []jinja.Span, error) {
	full, spans, err := tm.render(c, len(c.Messages), false)
	if err != nil {
		return "", nil, err
	}
	if tm.jin.Generation {
		return full, spans, nil
	}
	spans = nil
	at := 0
	for k, m := range c.Messages {
		if role, _ := m.Get("role"); role != "assistant" {
			continue
		}
		span, err := tm.turn(c, k, full)
		if err == nil && (span.Start < at || span.End < span.Start) {
			err = ErrTurns
		}
		if err != nil {
			return "", nil, fmt.Errorf("messages[%d]: %w", k, err)
		}
		spans = append(spans, span)
		at = span.End
	}
	return full, spans, nil
}

// turn finds message k in the text of all.
func (tm *Template) turn(c Chat, k int, full string) (jinja.Span, error) {
	prompt, _, err := tm.render(c, k, true)
	if err != nil {
		return jinja.Span{}, fmt.Errorf("%w (the messages before it: %w)", ErrTurns, err)
	}
	before, _, err := tm.render(c, k, false)
	if err != nil {
		return jinja.Span{}, fmt.Errorf("%w (the messages before it: %w)", ErrTurns, err)
	}
	upTo := full
	if k+1 < len(c.Messages) {
		if upTo, _, err = tm.render(c, k+1, false); err != nil {
			return jinja.Span{}, fmt.Errorf("%w (the messages up to it: %w)", ErrTurns, err)
		}
	}
	ignoresPrompt := prompt == before // it has none, or always one
	if strings.HasPrefix(full, prompt) && strings.HasPrefix(full, upTo) && (!ignoresPrompt || tm.endsClean(c, k, upTo)) {
		return jinja.Span{Start: len(prompt), End: len(upTo)}, nil
	}
	marked, err := tm.marked(c, k, len(c.Messages))
	if err != nil {
		return jinja.Span{}, err
	}
	if !strings.HasSuffix(full, marked.after) {
		return jinja.Span{}, ErrTurns
	}
	start := len(prompt)
	if !strings.HasPrefix(full, prompt) {
		// What was said earlier is rendered otherwise without what follows: look
		// for the prompt before what is said.
		header, ok := strings.CutPrefix(prompt, before)
		i := strings.LastIndex(marked.before, header)
		if !ok || header == "" || i < 0 || !strings.HasPrefix(full, marked.before[:i+len(header)]) {
			return jinja.Span{}, ErrTurns
		}
		start = i + len(header)
	}
	end, err := tm.turnEnd(c, k, marked, ignoresPrompt)
	if err != nil {
		return jinja.Span{}, err
	}
	return jinja.Span{Start: start, End: len(full) - len(marked.after) + end}, nil
}

// said is the conversation's text around what message k says.
type said struct{ before, after string }

// marker stands for what is said: a word that no template treats specially.
const marker = "zqmarkerxkjv"

// marked renders the first n messages with the marker for what message k says.
func (tm *Template) marked(c Chat, k, n int) (said, error) {
	content, _ := c.Messages[k].Get("content")
	if _, ok := content.(string); !ok {
		return said{}, fmt.Errorf("%w (its content is not a string)", ErrTurns)
	}
	other := c
	other.Messages = append([]*jinja.Dict(nil), c.Messages...)
	other.Messages[k] = c.Messages[k].With("content", marker)
	text, _, err := tm.render(other, n, false)
	if err != nil {
		return said{}, fmt.Errorf("%w (%w)", ErrTurns, err)
	}
	before, after, ok := strings.Cut(text, marker)
	if !ok || strings.Contains(after, marker) {
		return said{}, ErrTurns
	}
	return said{before, after}, nil
}

// endsClean tells whether the text of the messages up to k goes on, when someone
// answers, where it ends now: that it does not end with a generation prompt.
func (tm *Template) endsClean(c Chat, k int, upTo string) bool {
	c.Messages = append(c.Messages[:k+1:k+1], Message("user", marker))
	more, _, err := tm.render(c, k+2, false)
	return err == nil && strings.HasPrefix(more, upTo)
}

// turnEnd is how much of the text after what is said still belongs to the turn.
func (tm *Template) turnEnd(c Chat, k int, all said, ignoresPrompt bool) (int, error) {
	if ignoresPrompt {
		// A prompt may follow in any case: the turn ends with its special token.
		rest := strings.TrimLeft(all.after, " \n")
		for _, set := range []*addedSet{&tm.t.raw, &tm.t.norm} {
			if token, n := set.longest(rest); token != nil && token.Special {
				return len(all.after) - len(rest) + n, nil
			}
		}
		return 0, ErrTurns
	}
	alone, err := tm.marked(c, k, k+1)
	if err != nil {
		return 0, err
	}
	end := alone.after
	if eos := tm.t.Token(tm.t.special.EOS); eos != "" && !strings.HasPrefix(all.after, end) {
		end = strings.TrimSuffix(end, eos) // Phi-3 ends the last turn alone with it
	}
	if !strings.HasPrefix(all.after, end) {
		return 0, ErrTurns
	}
	return len(end), nil
}
