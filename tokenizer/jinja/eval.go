package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// eval evaluates an expression, counting steps and depth.
func (s *state) eval(e expr) (any, error) {
	if err := s.step(); err != nil {
		return nil, err
	}
	if s.depth >= maxEvalDepth {
		return nil, errDeep
	}
	s.depth++
	v, err := e.eval(s)
	s.depth--
	return v, err
}

func (e *constExpr) eval(*state) (any, error)  { return e.value, nil }
func (e *nameExpr) eval(s *state) (any, error) { return s.lookup(e.name), nil }

func (e *listExpr) eval(s *state) (any, error) {
	l := &List{Items: make([]any, len(e.items)), tuple: e.tuple}
	for i, x := range e.items {
		var err error
		if l.Items[i], err = s.eval(x); err != nil {
			return nil, err
		}
	}
	return l, s.made(16 * len(e.items))
}

func (e *dictExpr) eval(s *state) (any, error) {
	d := &Dict{}
	for i := range e.keys {
		k, err := s.eval(e.keys[i])
		if err != nil {
			return nil, err
		}
		v, err := s.eval(e.vals[i])
		if err != nil {
			return nil, err
		}
		if err := d.set(k, v); err != nil {
			return nil, at(e.line, err)
		}
	}
	return d, s.made(64 * len(e.keys))
}

func (e *attrExpr) eval(s *state) (any, error) {
	of, err := s.eval(e.of)
	if err != nil {
		return nil, err
	}
	v, err := attribute(of, e.name)
	return v, at(e.line, err)
}

// attribute is x.name: a method or attribute first, then an item.
func attribute(of any, name string) (any, error) {
	switch v := of.(type) {
	case undefined:
		return nil, fmt.Errorf("%w: it has no %q", v.err(), clip(name))
	case *namespace:
		if x, ok := v.attrs.Get(name); ok {
			return x, nil
		}
	case *loop:
		return v.attr(name), nil
	case *Dict:
		if m := dictMethod(v, name); m != nil {
			return m, nil
		}
		if x, ok := v.get(name); ok {
			return x, nil
		}
	case string:
		if m := stringMethod(v, name); m != nil {
			return m, nil
		}
	case *List:
		if m := listMethod(v, name); m != nil {
			return m, nil
		}
	}
	return undefined{fmt.Sprintf("attribute %q of a %s", clip(name), kind(of))}, nil
}

func (e *itemExpr) eval(s *state) (any, error) {
	of, err := s.eval(e.of)
	if err != nil {
		return nil, err
	}
	index, err := s.eval(e.index)
	if err != nil {
		return nil, err
	}
	v, err := s.item(of, index)
	return v, at(e.line, err)
}

// item is x[i]: an item first, then, for a name, an attribute.
func (s *state) item(of, index any) (any, error) {
	missing := undefined{fmt.Sprintf("that item of a %s", kind(of))}
	if u, ok := of.(undefined); ok {
		return nil, fmt.Errorf("%w: it has no items", u.err())
	}
	if d, ok := of.(*Dict); ok {
		if v, ok := d.get(index); ok {
			return v, nil
		}
	}
	if i, ok := integer(index); ok {
		switch v := of.(type) {
		case *List:
			if i < 0 {
				i += int64(len(v.Items))
			}
			if i >= 0 && i < int64(len(v.Items)) {
				return v.Items[i], nil
			}
		case string:
			n := int64(runes(v))
			if i < 0 {
				i += n
			}
			if i < 0 || i >= n {
				return missing, nil
			}
			return string([]rune(v)[i]), s.made(4 * len(v))
		}
		return missing, nil
	}
	if name, ok := index.(string); ok {
		if _, isDict := of.(*Dict); !isDict {
			return attribute(of, name)
		}
		if m := dictMethod(of.(*Dict), name); m != nil {
			return m, nil
		}
		return undefined{fmt.Sprintf("item %q of a dict", clip(name))}, nil
	}
	return missing, nil
}

func (e *sliceExpr) eval(s *state) (any, error) {
	of, err := s.eval(e.of)
	if err != nil {
		return nil, err
	}
	var bounds [3]any
	for i, x := range [...]expr{e.from, e.to, e.step} {
		if x == nil {
			continue
		}
		if bounds[i], err = s.eval(x); err != nil {
			return nil, err
		}
		if _, ok := integer(bounds[i]); !ok && bounds[i] != nil {
			return nil, at(e.line, fmt.Errorf("a slice wants integers, got a %s", kind(bounds[i])))
		}
	}
	switch v := of.(type) {
	case *List:
		at, err := slice(len(v.Items), bounds)
		if err != nil {
			return nil, err
		}
		l := &List{Items: make([]any, len(at)), tuple: v.tuple}
		for i, k := range at {
			l.Items[i] = v.Items[k]
		}
		return l, s.made(16 * len(at))
	case string:
		all := []rune(v)
		at, err := slice(len(all), bounds)
		if err != nil {
			return nil, err
		}
		out := make([]rune, len(at))
		for i, k := range at {
			out[i] = all[k]
		}
		return string(out), s.made(16 * len(v))
	case undefined:
		return nil, at(e.line, v.err())
	}
	return nil, at(e.line, fmt.Errorf("a %s cannot be sliced", kind(of)))
}

// slice lists the places that x[from:to:step] takes of n, as Python does.
func slice(n int, bounds [3]any) ([]int, error) {
	step := int64(1)
	if bounds[2] != nil {
		step = toInt(bounds[2])
	}
	if step == 0 {
		return nil, errors.New("slice step cannot be zero")
	}
	low, high := int64(0), int64(n)
	if step < 0 {
		low, high = -1, int64(n)-1
	}
	place := func(b any, def int64) int64 {
		if b == nil {
			return def
		}
		i := toInt(b)
		if i < 0 {
			i += int64(n)
		}
		return max(low, min(high, i))
	}
	var out []int
	if step > 0 {
		for i, end := place(bounds[0], 0), place(bounds[1], int64(n)); i < end; i += min(step, int64(n)) {
			out = append(out, int(i))
		}
		return out, nil
	}
	for i, end := place(bounds[0], int64(n)-1), place(bounds[1], -1); i > end; i += max(step, -int64(n)) {
		out = append(out, int(i))
	}
	return out, nil
}

func (e *callExpr) eval(s *state) (any, error) {
	of, err := s.eval(e.of)
	if err != nil {
		return nil, err
	}
	a, err := s.args(e.args)
	if err != nil {
		return nil, at(e.line, err)
	}
	switch f := of.(type) {
	case *function:
		v, err := f.call(s, a)
		return v, at(e.line, err)
	case *loop:
		v, err := f.call(s, a)
		return v, at(e.line, err)
	case undefined:
		return nil, at(e.line, f.err())
	}
	return nil, at(e.line, fmt.Errorf("a %s cannot be called", kind(of)))
}

func (e *filterExpr) eval(s *state) (v any, err error) {
	v = s.text
	if e.of != nil {
		if v, err = s.eval(e.of); err != nil {
			return nil, err
		}
	}
	a, err := s.args(e.args)
	if err == nil {
		v, err = e.filter(s, v, a)
	}
	if err != nil {
		return nil, at(e.line, fmt.Errorf("filter %s: %w", e.name, err))
	}
	return v, nil
}

func (e *testExpr) eval(s *state) (any, error) {
	v, err := s.eval(e.of)
	if err != nil {
		return nil, err
	}
	a, err := s.args(e.args)
	var ok bool
	if err == nil {
		ok, err = e.test(s, v, a)
	}
	if err != nil {
		return nil, at(e.line, fmt.Errorf("test %s: %w", e.name, err))
	}
	return ok != e.negated, nil
}

func (e *condExpr) eval(s *state) (any, error) {
	v, err := s.eval(e.test)
	switch {
	case err != nil:
		return nil, err
	case truth(v):
		return s.eval(e.then)
	case e.orElse == nil:
		return undefined{"the other branch of an if without else"}, nil
	}
	return s.eval(e.orElse)
}

func (e *logicExpr) eval(s *state) (any, error) {
	v, err := s.eval(e.left)
	if err != nil || truth(v) == e.or {
		return v, err
	}
	return s.eval(e.right)
}

func (e *notExpr) eval(s *state) (any, error) {
	v, err := s.eval(e.of)
	return !truth(v), err
}

func (e *signExpr) eval(s *state) (any, error) {
	v, err := s.eval(e.of)
	if err != nil {
		return nil, err
	}
	if !e.negative {
		return v, nil
	}
	if i, ok := integer(v); ok {
		return -i, nil
	}
	if f, ok := v.(float64); ok {
		return -f, nil
	}
	return nil, at(e.line, fmt.Errorf("a %s has no sign", kind(v)))
}

func (e *compareExpr) eval(s *state) (any, error) {
	left, err := s.eval(e.first)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		right, err := s.eval(e.rest[i])
		if err != nil {
			return nil, err
		}
		ok, err := s.compare(op, left, right)
		if err != nil {
			return nil, at(e.line, err)
		}
		if !ok {
			return false, nil
		}
		left = right
	}
	return true, nil
}

func (s *state) compare(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return s.equal(a, b), nil
	case "!=":
		return !s.equal(a, b), nil
	case "in":
		return s.contains(b, a)
	case "not in":
		ok, err := s.contains(b, a)
		return !ok, err
	case "<":
		return s.less(a, b)
	case ">":
		return s.less(b, a)
	case "<=":
		if s.equal(a, b) {
			return true, nil
		}
		return s.less(a, b)
	}
	if s.equal(a, b) {
		return true, nil
	}
	return s.less(b, a)
}

// contains is Python's item in of.
func (s *state) contains(of, item any) (bool, error) {
	switch v := of.(type) {
	case string:
		part, ok := item.(string)
		if !ok {
			return false, fmt.Errorf("a %s in a str: want a str", kind(item))
		}
		return strings.Contains(v, part), s.made(1)
	case *Dict:
		_, ok := v.get(item)
		return ok, nil
	}
	items, err := s.iterate(of)
	if err != nil {
		return false, err
	}
	for _, x := range items {
		if s.equal(x, item) {
			return true, nil
		}
	}
	return false, nil
}
