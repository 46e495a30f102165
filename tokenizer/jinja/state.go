package jinja

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxEvalDepth bounds the Go stack: chains of operators make deep trees.
const maxEvalDepth = 5000

// state is one rendering.
type state struct {
	vars  *Dict
	now   time.Time
	scope *scope
	out   *strings.Builder
	spans []Span

	captures int // blocks whose text goes into a value, around the current one
	calls    int // macro calls and recursive loops around it
	depth    int // of expressions
	steps    int
	bytes    int   // of strings made
	limit    int   // on bytes
	text     any   // what a {% filter %} block or filtered set applies to
	exceeded error // a bound that was met where no error could be returned
}

// scope holds the names assigned in a loop's body, a macro or a block.
type scope struct {
	names map[string]any
	outer *scope
}

func newState(vars *Dict, o Options) *state {
	return &state{
		vars: vars, now: o.Now, scope: &scope{}, out: &strings.Builder{},
		limit: freeBytes + bytesPerByte*size(vars),
	}
}

var (
	errSteps = fmt.Errorf("the template takes more than %d steps", maxSteps)
	errBytes = errors.New("the template makes far more text than it was given")
	errCalls = fmt.Errorf("macros or recursive loops nested deeper than %d", maxDepth)
)

// step counts one node, and reports what went too far since the last.
func (s *state) step() error {
	if s.steps++; s.steps > maxSteps {
		return errSteps
	}
	return s.exceeded
}

// made counts n bytes of a string that was made.
func (s *state) made(n int) error {
	if s.bytes += n; s.bytes > s.limit || s.bytes < 0 {
		return errBytes
	}
	return nil
}

// deeper counts one step into a value, and is false when it went too far.
func (s *state) deeper(depth int) bool {
	if s.steps++; s.exceeded == nil {
		switch {
		case s.steps > maxSteps:
			s.exceeded = errSteps
		case depth > maxEvalDepth:
			s.exceeded = errDeep
		}
	}
	return s.exceeded == nil
}

func (s *state) write(text string) error {
	s.out.WriteString(text)
	return s.made(len(text))
}

// lookup finds a name: innermost scope first, then the given variables, then globals.
func (s *state) lookup(name string) any {
	for c := s.scope; c != nil; c = c.outer {
		if v, ok := c.names[name]; ok {
			return v
		}
	}
	if v, ok := s.vars.Get(name); ok {
		return v
	}
	if v, ok := globals[name]; ok && (name != "strftime_now" || !s.now.IsZero()) {
		return v
	}
	return undefined{fmt.Sprintf("%q", name)}
}

func (c *scope) set(name string, v any) {
	if c.names == nil {
		c.names = map[string]any{}
	}
	c.names[name] = v
}

// within runs f in a scope inside outer.
func (s *state) within(outer *scope, f func() error) error {
	old := s.scope
	s.scope = &scope{outer: outer}
	err := f()
	s.scope = old
	return err
}

// capture runs f and returns the text it wrote.
func (s *state) capture(f func() error) (string, error) {
	old := s.out
	s.out = &strings.Builder{}
	s.captures++
	err := f()
	text := s.out.String()
	s.out = old
	s.captures--
	return text, err
}

// What ends a body early: not errors that a caller of Render sees.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

func (s *state) run(body []node) error {
	for _, n := range body {
		if err := s.step(); err != nil {
			return err
		}
		if err := n.run(s); err != nil {
			return err
		}
	}
	return nil
}

func (n *textNode) run(s *state) error { return s.write(n.text) }

func (n *printNode) run(s *state) error {
	v, err := s.eval(n.e)
	if err != nil {
		return at(n.line, err)
	}
	text, err := s.str(v)
	if err != nil {
		return at(n.line, err)
	}
	return at(n.line, s.write(text))
}

func (n *ifNode) run(s *state) error {
	for i, test := range n.tests {
		v, err := s.eval(test)
		if err != nil {
			return err
		}
		if truth(v) {
			return s.run(n.bodies[i])
		}
	}
	return s.run(n.orElse)
}

func (n *jumpNode) run(*state) error {
	if n.leave {
		return errBreak
	}
	return errContinue
}

// assign sets the names of a target in the current scope.
func (s *state) assign(t target, v any) error {
	if !t.tuple {
		s.scope.set(t.names[0], v)
		return nil
	}
	items, err := s.iterate(v)
	if err != nil {
		return err
	}
	if len(items) != len(t.names) {
		return fmt.Errorf("%d values for %d names", len(items), len(t.names))
	}
	for i, name := range t.names {
		s.scope.set(name, items[i])
	}
	return nil
}

func (n *setNode) run(s *state) error {
	v, err := n.compute(s)
	if err != nil {
		return at(n.line, err)
	}
	if n.attr == "" {
		return at(n.line, s.assign(n.target, v))
	}
	ns, ok := s.lookup(n.target.names[0]).(*namespace)
	if !ok {
		return at(n.line, fmt.Errorf("cannot set %s.%s: only a namespace's attributes can be set", n.target.names[0], n.attr))
	}
	ns.attrs.Set(n.attr, v)
	return nil
}

func (n *setNode) compute(s *state) (any, error) {
	if n.value != nil {
		return s.eval(n.value)
	}
	text, err := s.capture(func() error {
		return s.within(s.scope, func() error { return s.run(n.body) })
	})
	if err != nil || n.filter == nil {
		return text, err
	}
	return s.filterText(n.filter, text)
}

// filterText applies a chain of filters that stands alone to a block's text.
func (s *state) filterText(chain expr, text string) (any, error) {
	old := s.text
	s.text = text
	v, err := s.eval(chain)
	s.text = old
	return v, err
}

func (n *filterNode) run(s *state) error {
	text, err := s.capture(func() error {
		return s.within(s.scope, func() error { return s.run(n.body) })
	})
	if err != nil {
		return err
	}
	v, err := s.filterText(n.filter, text)
	if err != nil {
		return at(n.line, err)
	}
	if text, err = s.str(v); err != nil {
		return at(n.line, err)
	}
	return s.write(text)
}

func (n *withNode) run(s *state) error {
	values := make([]any, len(n.values))
	for i, e := range n.values {
		var err error
		if values[i], err = s.eval(e); err != nil {
			return at(n.line, err)
		}
	}
	return s.within(s.scope, func() error {
		for i, name := range n.names {
			s.scope.set(name, values[i])
		}
		return s.run(n.body)
	})
}

// A generation block's text is the assistant's. Where it goes into a value its
// place in the output is not known, so that is refused.
func (n *generationNode) run(s *state) error {
	if s.captures > 0 {
		return at(n.line, errors.New("{% generation %} inside a macro, a set block or a filter block is not supported"))
	}
	start := s.out.Len()
	if err := s.within(s.scope, func() error { return s.run(n.body) }); err != nil {
		return err
	}
	s.spans = append(s.spans, Span{start, s.out.Len()})
	return nil
}
