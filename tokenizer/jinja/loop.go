package jinja

import (
	"errors"
	"fmt"
)

// loop is the variable of that name in a for body.
type loop struct {
	items []any
	i     int
	depth int
	last  any // what changed() saw last
	seen  bool
	n     *forNode
	scope *scope // around the loop
}

func (l *loop) attr(name string) any {
	n := int64(len(l.items))
	i := int64(l.i)
	switch name {
	case "index":
		return i + 1
	case "index0":
		return i
	case "revindex":
		return n - i
	case "revindex0":
		return n - i - 1
	case "first":
		return i == 0
	case "last":
		return i == n-1
	case "length":
		return n
	case "depth":
		return int64(l.depth + 1)
	case "depth0":
		return int64(l.depth)
	case "previtem":
		if i > 0 {
			return l.items[i-1]
		}
	case "nextitem":
		if i+1 < n {
			return l.items[i+1]
		}
	case "cycle":
		return &function{"loop.cycle", func(_ *state, a args) (any, error) {
			if len(a.positional) == 0 {
				return nil, errors.New("loop.cycle wants values")
			}
			return a.positional[l.i%len(a.positional)], nil
		}}
	case "changed":
		return &function{"loop.changed", func(s *state, a args) (any, error) {
			now := &List{Items: a.positional, tuple: true}
			changed := !l.seen || !s.equal(l.last, now)
			l.last, l.seen = now, true
			return changed, nil
		}}
	}
	return undefined{fmt.Sprintf("loop.%s", clip(name))}
}

func (n *forNode) run(s *state) error {
	over, err := s.eval(n.over)
	if err != nil {
		return at(n.line, err)
	}
	return at(n.line, n.each(s, over, s.scope, 0))
}

// each runs the loop over a value, in a scope inside outer.
func (n *forNode) each(s *state, over any, outer *scope, depth int) error {
	items, err := s.iterate(over)
	if err != nil {
		return err
	}
	if n.filter != nil {
		var kept []any
		for _, item := range items {
			err := s.within(outer, func() error {
				if err := s.assign(n.target, item); err != nil {
					return err
				}
				v, err := s.eval(n.filter)
				if truth(v) {
					kept = append(kept, item)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		items = kept
	}
	if len(items) == 0 {
		return s.within(outer, func() error { return s.run(n.orElse) })
	}
	l := &loop{items: items, depth: depth, n: n, scope: outer}
	for l.i = range items {
		err := s.within(outer, func() error {
			s.scope.set("loop", l)
			if err := s.assign(n.target, items[l.i]); err != nil {
				return err
			}
			return s.run(n.body)
		})
		if errors.Is(err, errBreak) {
			break
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
		if err := s.step(); err != nil {
			return err
		}
	}
	return nil
}

// call is loop(value) in a recursive loop: the text of the loop over value.
func (l *loop) call(s *state, a args) (any, error) {
	if !l.n.recursive || len(a.positional) != 1 {
		return nil, errors.New("loop(...) wants a recursive loop and one value")
	}
	if s.calls >= maxDepth {
		return nil, errCalls
	}
	s.calls++
	defer func() { s.calls-- }()
	return s.capture(func() error { return l.n.each(s, a.positional[0], l.scope, l.depth+1) })
}

// iterate is the elements of a value: a string's characters, a dictionary's keys.
func (s *state) iterate(v any) ([]any, error) {
	switch v := v.(type) {
	case undefined:
		return nil, nil
	case *List:
		return v.Items, nil
	case *Dict:
		return v.keys, nil
	case string:
		if err := s.made(16 * len(v)); err != nil {
			return nil, err
		}
		items := make([]any, 0, len(v))
		for _, r := range v {
			items = append(items, string(r))
		}
		return items, nil
	}
	return nil, fmt.Errorf("a %s cannot be iterated", kind(v))
}

// args are a call's evaluated arguments.
type args struct {
	positional []any
	named      Dict
	caller     *function // of a {% call %} block
}

// get is the argument at a place or of a name, else def.
func (a *args) get(i int, name string, def any) any {
	if i >= 0 && i < len(a.positional) {
		return a.positional[i]
	}
	if v, ok := a.named.Get(name); ok {
		return v
	}
	return def
}

func (s *state) args(e argExprs) (a args, err error) {
	for _, x := range e.positional {
		v, err := s.eval(x)
		if err != nil {
			return a, err
		}
		a.positional = append(a.positional, v)
	}
	for i, x := range e.named {
		v, err := s.eval(x)
		if err != nil {
			return a, err
		}
		a.named.Set(e.names[i], v)
	}
	if e.star != nil {
		v, err := s.eval(e.star)
		if err != nil {
			return a, err
		}
		items, err := s.iterate(v)
		if err != nil {
			return a, err
		}
		a.positional = append(a.positional[:len(a.positional):len(a.positional)], items...)
	}
	if e.starStar != nil {
		v, err := s.eval(e.starStar)
		if err != nil {
			return a, err
		}
		d, ok := v.(*Dict)
		if !ok {
			return a, fmt.Errorf("** wants a dict, got a %s", kind(v))
		}
		a.named.addAll(d)
	}
	return a, nil
}

func (n *macroNode) run(s *state) error {
	s.scope.set(n.name, n.function(s.scope))
	return nil
}

// function is the macro as a value: it sees the names around its definition.
func (n *macroNode) function(outer *scope) *function {
	return &function{n.name, func(s *state, a args) (any, error) { return n.call(s, outer, a) }}
}

func (n *macroNode) call(s *state, outer *scope, a args) (any, error) {
	if s.calls >= maxDepth {
		return nil, errCalls
	}
	s.calls++
	defer func() { s.calls-- }()
	return s.capture(func() error {
		return s.within(outer, func() error {
			if err := n.bind(s, a); err != nil {
				return err
			}
			return s.run(n.body)
		})
	})
}

// bind sets a macro's parameters, varargs, kwargs and caller.
func (n *macroNode) bind(s *state, a args) error {
	extra := &Dict{}
	for i, k := range a.named.keys {
		if name, _ := k.(string); !n.has(name) {
			extra.Set(name, a.named.vals[i])
		}
	}
	rest := &List{tuple: true}
	if len(a.positional) > len(n.params) {
		rest.Items = a.positional[len(n.params):]
	}
	s.scope.set("varargs", rest)
	s.scope.set("kwargs", extra)
	if a.caller != nil {
		s.scope.set("caller", a.caller)
	}
	for i, p := range n.params {
		v := a.get(i, p.name, undefined{fmt.Sprintf("parameter %q of %s", p.name, n.name)})
		if _, missing := v.(undefined); missing && p.value != nil {
			var err error
			if v, err = s.eval(p.value); err != nil {
				return err
			}
		}
		s.scope.set(p.name, v)
	}
	return nil
}

func (n *macroNode) has(name string) bool {
	for _, p := range n.params {
		if p.name == name {
			return true
		}
	}
	return false
}

func (n *callNode) run(s *state) error {
	of, err := s.eval(n.call.of)
	if err != nil {
		return at(n.line, err)
	}
	f, ok := of.(*function)
	if !ok {
		return at(n.line, fmt.Errorf("a %s cannot be called", kind(of)))
	}
	a, err := s.args(n.call.args)
	if err != nil {
		return at(n.line, err)
	}
	a.caller = n.caller.function(s.scope)
	v, err := f.call(s, a)
	if err != nil {
		return at(n.line, err)
	}
	text, err := s.str(v)
	if err != nil {
		return at(n.line, err)
	}
	return s.write(text)
}
