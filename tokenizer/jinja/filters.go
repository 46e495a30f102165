package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

type filterFunc = func(s *state, v any, a args) (any, error)

// filters are jinja2's that templates use, and transformers' tojson.
var filters map[string]filterFunc

func init() { // not a literal: map and select look filters and tests up
	filters = map[string]filterFunc{
		"abs": absolute, "attr": attr, "batch": batch, "capitalize": textFilter("capitalize"),
		"count": length, "d": defaultTo, "default": defaultTo, "dictsort": dictSort, "e": escape, "escape": escape,
		"first": first, "float": toFloat, "forceescape": escape, "format": formatPercent, "groupby": groupBy, "indent": indent,
		"int": toInteger, "items": items, "join": join, "last": last, "length": length, "list": toList,
		"lower": textFilter("lower"), "map": mapOver, "max": extreme(true), "min": extreme(false), "reject": choose(false, false),
		"rejectattr": choose(false, true), "replace": textFilter("replace"), "reverse": reverse, "round": round,
		"safe": toText, "select": choose(true, false), "selectattr": choose(true, true), "sort": sorted, "string": toText,
		"sum": sum, "title": titled, "tojson": toJSON, "trim": textFilter("strip"), "truncate": truncate,
		"unique": unique, "upper": textFilter("upper"), "urlencode": urlEncode,
	}
}

// textFilter is a filter that is a string's method.
func textFilter(name string) filterFunc {
	return func(s *state, v any, a args) (any, error) {
		t, err := s.str(v)
		if err != nil {
			return nil, err
		}
		if err := s.made(len(t)); err != nil {
			return nil, err
		}
		return stringMethods[name](s, t, a)
	}
}

func toText(s *state, v any, _ args) (any, error) { return s.str(v) }

func toJSON(s *state, v any, a args) (any, error) {
	o := jsonStyle{comma: ", ", colon: ": ", ascii: truth(a.get(0, "ensure_ascii", false)), sorted: truth(a.get(3, "sort_keys", false))}
	switch indent := a.get(1, "indent", nil).(type) {
	case nil:
	case string:
		o.lines, o.indent = true, indent
	case int64:
		if indent > 1000 {
			return nil, errors.New("indent beyond 1000")
		}
		o.lines, o.indent = true, strings.Repeat(" ", int(max(indent, 0)))
	default:
		return nil, fmt.Errorf("indent: want an int or a str, got a %s", kind(indent))
	}
	if o.lines {
		o.comma = ","
	}
	if l, ok := a.get(2, "separators", nil).(*List); ok {
		if len(l.Items) != 2 {
			return nil, errors.New("separators: want two")
		}
		c, ok := l.Items[0].(string)
		k, ok2 := l.Items[1].(string)
		if !ok || !ok2 {
			return nil, errors.New("separators: want two str")
		}
		o.comma, o.colon = c, k
	}
	var b strings.Builder
	if err := s.json(&b, v, o, 0); err != nil {
		return nil, err
	}
	return b.String(), s.made(b.Len())
}

func defaultTo(_ *state, v any, a args) (any, error) {
	_, missing := v.(undefined)
	if missing || truth(a.get(1, "boolean", false)) && !truth(v) {
		return a.get(0, "default_value", ""), nil
	}
	return v, nil
}

func length(_ *state, v any, _ args) (any, error) {
	switch v := v.(type) {
	case string:
		return int64(runes(v)), nil
	case *List:
		return int64(len(v.Items)), nil
	case *Dict:
		return int64(v.Len()), nil
	case undefined:
		return int64(0), nil
	}
	return nil, fmt.Errorf("a %s has no length", kind(v))
}

func toList(s *state, v any, _ args) (any, error) {
	l, err := s.iterate(v)
	return &List{Items: l}, err
}

func items(s *state, v any, _ args) (any, error) {
	switch v := v.(type) {
	case *Dict:
		return v.pairs(), s.made(64 * v.Len())
	case undefined:
		return &List{}, nil
	}
	return nil, fmt.Errorf("want a dict, got a %s", kind(v))
}

func first(s *state, v any, _ args) (any, error) {
	l, err := s.iterate(v)
	if err != nil || len(l) == 0 {
		return undefined{"the first item of an empty sequence"}, err
	}
	return l[0], nil
}

func last(s *state, v any, _ args) (any, error) {
	l, err := s.iterate(v)
	if err != nil || len(l) == 0 {
		return undefined{"the last item of an empty sequence"}, err
	}
	return l[len(l)-1], nil
}

func reverse(s *state, v any, _ args) (any, error) {
	_, isText := v.(string)
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(l))
	for i, x := range l {
		out[len(l)-1-i] = x
	}
	if isText {
		var b strings.Builder
		for _, x := range out {
			b.WriteString(x.(string))
		}
		return b.String(), nil
	}
	return &List{Items: out}, s.made(16 * len(out))
}

func join(s *state, v any, a args) (any, error) {
	sep, err := s.str(a.get(0, "d", ""))
	if err != nil {
		return nil, err
	}
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	key, err := keyOf(a.get(1, "attribute", nil), false)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, x := range l {
		if x, err = key(s, x); err != nil {
			return nil, err
		}
		t, err := s.str(x)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(t)
		if err := s.made(len(t) + len(sep)); err != nil {
			return nil, err
		}
	}
	return b.String(), nil
}

// keyOf makes a function that gets an attribute, of an attribute with points in
// its name, of each item; none gives the item. fold makes strings lower case.
func keyOf(v any, fold bool) (func(s *state, x any) (any, error), error) {
	var path []any
	switch v := v.(type) {
	case nil:
	case int64:
		path = []any{v}
	case string:
		for _, p := range strings.Split(v, ".") {
			if i, err := strconv.ParseInt(p, 10, 32); err == nil {
				path = append(path, i)
			} else {
				path = append(path, p)
			}
		}
	default:
		return nil, fmt.Errorf("attribute: want a str, got a %s", kind(v))
	}
	return func(s *state, x any) (any, error) {
		for _, p := range path {
			var err error
			if x, err = s.item(x, p); err != nil {
				return nil, err
			}
		}
		if t, ok := x.(string); ok && fold {
			return strings.ToLower(t), s.made(len(t))
		}
		return x, nil
	}, nil
}

func sum(s *state, v any, a args) (any, error) {
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	key, err := keyOf(a.get(0, "attribute", nil), false)
	if err != nil {
		return nil, err
	}
	total := a.get(1, "start", int64(0))
	for _, x := range l {
		if x, err = key(s, x); err != nil {
			return nil, err
		}
		if total, err = s.binary("+", total, x); err != nil {
			return nil, err
		}
	}
	return total, nil
}

// mapOver is map("filter", args...) or map(attribute="name", default=value).
func mapOver(s *state, v any, a args) (any, error) {
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	out := &List{Items: make([]any, len(l))}
	if err := s.made(16 * len(l)); err != nil {
		return nil, err
	}
	if name := a.get(-1, "attribute", nil); name != nil {
		key, err := keyOf(name, false)
		if err != nil {
			return nil, err
		}
		for i, x := range l {
			if out.Items[i], err = key(s, x); err != nil {
				return nil, err
			}
			if _, missing := out.Items[i].(undefined); missing {
				out.Items[i] = a.get(-1, "default", out.Items[i])
			}
		}
		return out, nil
	}
	name, err := a.text(0, "", nil)
	if err != nil {
		return nil, err
	}
	f, ok := filters[name]
	if !ok {
		return nil, fmt.Errorf("no filter named %q", clip(name))
	}
	for i, x := range l {
		if err := s.step(); err != nil {
			return nil, err
		}
		if out.Items[i], err = f(s, x, args{positional: a.positional[1:], named: a.named}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// choose is select, reject and their forms for attributes.
func choose(keep, byAttribute bool) filterFunc {
	return func(s *state, v any, a args) (any, error) {
		l, err := s.iterate(v)
		if err != nil {
			return nil, err
		}
		key, err := keyOf(nil, false)
		if byAttribute {
			if len(a.positional) == 0 {
				return nil, errors.New("want an attribute")
			}
			key, err = keyOf(a.positional[0], false)
			a.positional = a.positional[1:]
		}
		if err != nil {
			return nil, err
		}
		test := testFunc(func(_ *state, v any, _ args) (bool, error) { return truth(v), nil })
		if len(a.positional) > 0 {
			name, err := a.text(0, "", nil)
			if err != nil {
				return nil, err
			}
			var ok bool
			if test, ok = tests[name]; !ok {
				return nil, fmt.Errorf("no test named %q", clip(name))
			}
			a.positional = a.positional[1:]
		}
		out := &List{}
		for _, x := range l {
			k, err := key(s, x)
			if err != nil {
				return nil, err
			}
			ok, err := test(s, k, a)
			if err != nil {
				return nil, err
			}
			if ok == keep {
				out.Items = append(out.Items, x)
			}
			if err := s.step(); err != nil {
				return nil, err
			}
		}
		return out, s.made(16 * len(out.Items))
	}
}

func batch(s *state, v any, a args) (any, error) {
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	n, err := a.count(0, "linecount", 0)
	if err != nil || n < 1 {
		return nil, errors.New("want a count of at least 1")
	}
	fill := a.get(1, "fill_with", nil)
	if fill != nil && n > maxRange {
		return nil, fmt.Errorf("want a count of at most %d", maxRange)
	}
	out := &List{}
	for len(l) > 0 {
		k := int(min(n, int64(len(l))))
		row := append([]any(nil), l[:k]...)
		for fill != nil && int64(len(row)) < n {
			row = append(row, fill)
		}
		out.Items, l = append(out.Items, &List{Items: row}), l[k:]
	}
	return out, s.made(16 * len(l))
}

func attr(_ *state, v any, a args) (any, error) {
	name, err := a.text(0, "name", nil)
	if err != nil {
		return nil, err
	}
	if _, ok := v.(*Dict); ok {
		return undefined{fmt.Sprintf("attribute %q of a dict", clip(name))}, nil
	}
	return attribute(v, name)
}

func absolute(_ *state, v any, _ args) (any, error) {
	if i, ok := integer(v); ok {
		return max(i, -i), nil
	}
	if f, ok := v.(float64); ok {
		return math.Abs(f), nil
	}
	return nil, fmt.Errorf("want a number, got a %s", kind(v))
}
