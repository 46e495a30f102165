// Package jinja renders the Jinja templates that models carry for their
// conversations, with Python's and Jinja2's meaning of them, as transformers sets
// it up: trim_blocks and lstrip_blocks on, loop controls, {% generation %},
// namespaces, tojson that keeps the order of members, nothing mutable.
//
// Parse a template once; Render it with values made by Decode (of JSON), or by
// hand of nil, bool, int64, float64, string, *List and *Dict.
//
// A template comes from outside. It can neither crash the process nor keep it
// busy: nesting, steps and bytes are bounded, and it reaches nothing but its values.
//
// It is an interpreter of our own because the Go libraries at hand order members
// by name, have Go's arithmetic instead of Python's, and run an endless loop
// endlessly.
package jinja

import (
	"errors"
	"fmt"
	"time"
)

// ErrRaised is the error of a template that called raise_exception: the
// conversation is not one that the model was made for.
var ErrRaised = errors.New("the template refuses this conversation")

// Bounds on a template and on one rendering.
const (
	maxSourceBytes = 4 << 20
	maxNesting     = 200       // of expressions and blocks in the source
	maxDepth       = 100       // of macro calls and recursive loops
	maxSteps       = 2_000_000 // nodes evaluated
	freeBytes      = 64 << 20  // strings made, however small the input is
	bytesPerByte   = 64        // and that many for each byte of input
	maxRange       = 100_000   // elements of range(), as Jinja2's sandbox has it
)

// Template is a parsed template; several goroutines may render it.
type Template struct {
	body []node
	// Generation is true when the template marks the assistant's text itself.
	Generation bool
}

// Span is a part of a rendered text, in bytes: [Start, End).
type Span struct{ Start, End int }

// Options of one rendering.
type Options struct {
	// Now is what strftime_now formats; zero leaves that function undefined.
	Now time.Time
}

// Parse compiles a template. An error names the line.
func Parse(source string) (*Template, error) {
	if len(source) > maxSourceBytes {
		return nil, fmt.Errorf("template of %d bytes: want at most %d", len(source), maxSourceBytes)
	}
	tokens, err := lex(source)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	body, err := p.template()
	if err != nil {
		return nil, err
	}
	return &Template{body: body, Generation: p.generation}, nil
}

// Render returns the text and the parts of it that {% generation %} blocks made,
// in order. vars are not changed.
func (t *Template) Render(vars *Dict, o Options) (text string, generated []Span, err error) {
	s := newState(vars, o)
	if err := s.run(t.body); err != nil {
		return "", nil, err
	}
	if s.exceeded != nil {
		return "", nil, s.exceeded
	}
	return s.out.String(), s.spans, nil
}

// lineError puts the template's line before an error that has none yet.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("template line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

func at(line int, err error) error {
	var has *lineError
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &lineError{line, err}
}
