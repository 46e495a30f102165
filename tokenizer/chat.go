package tokenizer

import (
	"errors"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/tokenizer/jinja"
)

// ErrNoTemplate is returned for a model without a chat template: the job has to
// name one, or its data must not be conversations.
var ErrNoTemplate = errors.New("the model has no chat template")

// Chat is a conversation as a template sees it.
type Chat struct {
	// Messages are *jinja.Dict with at least a string "role".
	Messages []*jinja.Dict
	// Tools are what the model may call: JSON schemas, or nil.
	Tools *jinja.List
	// Variables are the template's own switches, such as enable_thinking; may be nil.
	Variables *jinja.Dict
	// Prompt ends the text where the assistant begins to speak.
	Prompt bool
}

// Message makes one message of a Chat.
func Message(role, content string) *jinja.Dict {
	return jinja.NewDict("role", role, "content", content)
}

// Template renders conversations as the text that a model was trained on.
// Several goroutines may use it.
type Template struct {
	t   *Tokenizer
	jin *jinja.Template
	now time.Time
}

// Template makes the chat template that the model came with, by name; "" is its
// default. now is what strftime_now tells; where the text is trained on it must
// be a constant of the job, or runs differ from day to day. Zero leaves that
// function undefined, which templates that use it have a default date for.
func (t *Tokenizer) Template(name string, now time.Time) (*Template, error) {
	if name == "" {
		name = defaultTemplate
	}
	source, ok := t.chat[name]
	if !ok {
		if len(t.chat) > 0 {
			return nil, fmt.Errorf("chat template %q: %w of that name: it has %q", name, ErrNoTemplate, t.ChatTemplates())
		}
		return nil, ErrNoTemplate
	}
	return t.ParseTemplate(source, now)
}

// ParseTemplate makes a template of its source.
func (t *Tokenizer) ParseTemplate(source string, now time.Time) (*Template, error) {
	jin, err := jinja.Parse(source)
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return &Template{t: t, jin: jin, now: now}, nil
}

// Render gives the conversation's text. It holds every special token that the
// model wants: encode it without Begin and End.
func (tm *Template) Render(c Chat) (string, error) {
	text, _, err := tm.render(c, len(c.Messages), c.Prompt)
	return text, err
}

// render gives the text of the first n messages, and its generation blocks.
func (tm *Template) render(c Chat, n int, prompt bool) (string, []jinja.Span, error) {
	messages := jinja.NewList()
	for i, m := range c.Messages[:n] {
		if role, ok := m.Get("role"); !ok {
			return "", nil, fmt.Errorf("messages[%d] has no role", i)
		} else if _, ok := role.(string); !ok {
			return "", nil, fmt.Errorf("messages[%d].role is not a string", i)
		}
		messages.Items = append(messages.Items, withReasoning(m))
	}
	vars := jinja.NewDict("messages", messages, "tools", nil, "documents", nil, "add_generation_prompt", prompt)
	if c.Tools != nil {
		vars.Set("tools", c.Tools)
	}
	s := tm.t.special
	for name, id := range map[string]int32{"bos_token": s.BOS, "eos_token": s.EOS, "pad_token": s.Pad, "unk_token": s.Unknown} {
		if id != None {
			vars.Set(name, tm.t.tokens[id])
		}
	}
	if c.Variables != nil {
		c.Variables.Each(vars.Set)
	}
	text, spans, err := tm.jin.Render(vars, jinja.Options{Now: tm.now})
	if err != nil {
		return "", nil, fmt.Errorf("chat %w", err)
	}
	return text, spans, nil
}

// withReasoning gives a message's reasoning both names that templates read it
// by, as transformers does.
func withReasoning(m *jinja.Dict) *jinja.Dict {
	for _, name := range []string{"reasoning_content", "thinking", "reasoning"} {
		v, ok := m.Get(name)
		if !ok || v == nil {
			continue
		}
		if _, ok := m.Get("thinking"); !ok {
			m = m.With("thinking", v)
		}
		return m.With("reasoning_content", v)
	}
	return m
}
