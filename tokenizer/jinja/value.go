package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// undefined is the value of a name or member that does not exist: empty when
// printed or iterated, false, and an error in anything else.
type undefined struct{ what string }

func (u undefined) err() error { return fmt.Errorf("%s is undefined", u.what) }

// List is a list or a tuple. It does not change once a template sees it.
type List struct {
	Items []any
	tuple bool
}

// NewList makes a list of items.
func NewList(items ...any) *List { return &List{Items: items} }

// Dict is a dictionary that keeps the order in which keys came. Its zero value is
// an empty one.
type Dict struct {
	keys  []any
	index map[any]int
	vals  []any
}

// NewDict makes a dictionary of alternating string keys and values.
func NewDict(pairs ...any) *Dict {
	d := &Dict{}
	for i := 0; i+1 < len(pairs); i += 2 {
		d.Set(pairs[i].(string), pairs[i+1])
	}
	return d
}

// Set puts a value at a key: in its old place, or at the end.
func (d *Dict) Set(key string, value any) { d.insert(key, key, value) }

// Get is the value at a key.
func (d *Dict) Get(key string) (any, bool) { return d.get(key) }

// Each calls f for every string key and its value, in order.
func (d *Dict) Each(f func(key string, value any)) {
	for i, k := range d.keys {
		if name, ok := k.(string); ok {
			f(name, d.vals[i])
		}
	}
}

// Len is the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// With is a copy with one value changed.
func (d *Dict) With(key string, value any) *Dict {
	c := &Dict{}
	c.addAll(d)
	c.Set(key, value)
	return c
}

// hashable is a value as a key: 1, 1.0 and True are one key, as in Python.
func hashable(v any) (any, error) {
	switch v := v.(type) {
	case nil, string, int64:
		return v, nil
	case bool:
		return toInt(v), nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
		return v, nil
	}
	return nil, fmt.Errorf("a %s cannot be a key", kind(v))
}

func (d *Dict) set(key, value any) error {
	h, err := hashable(key)
	if err != nil {
		return err
	}
	d.insert(h, key, value)
	return nil
}

// insert sets the value of a key that is hashed already.
func (d *Dict) insert(h, key, value any) {
	if i, ok := d.index[h]; ok {
		d.vals[i] = value
		return
	}
	if d.index == nil {
		d.index = map[any]int{}
	}
	d.index[h] = len(d.keys)
	d.keys, d.vals = append(d.keys, key), append(d.vals, value)
}

// addAll sets every key of o.
func (d *Dict) addAll(o *Dict) {
	for i, k := range o.keys {
		h, _ := hashable(k) // it was, when o got it
		d.insert(h, k, o.vals[i])
	}
}

func (d *Dict) get(key any) (any, bool) {
	h, err := hashable(key)
	if err != nil {
		return nil, false
	}
	if i, ok := d.index[h]; ok {
		return d.vals[i], true
	}
	return nil, false
}

func (d *Dict) pairs() *List {
	l := &List{}
	for i, k := range d.keys {
		l.Items = append(l.Items, &List{Items: []any{k, d.vals[i]}, tuple: true})
	}
	return l
}

// namespace is the one thing that a template may change.
type namespace struct{ attrs Dict }

// function is anything that can be called: a method, a global, a macro.
type function struct {
	name string
	call func(s *state, a args) (any, error)
}

// maxJSONDepth bounds nesting in Decode.
const maxJSONDepth = 200

// Decode reads one JSON value: objects become *Dict in the order of their
// members, arrays *List, numbers int64 or, with a point or an exponent, float64.
func Decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := decode(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("invalid character after top-level value at byte %d", d.InputOffset())
		}
		return nil, err
	}
	return v, nil
}

func decode(d *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return number(t)
	case json.Delim:
		if t == '[' {
			l := &List{}
			for d.More() {
				v, err := decode(d, depth+1)
				if err != nil {
					return nil, err
				}
				l.Items = append(l.Items, v)
			}
			return l, closing(d)
		}
		m := &Dict{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decode(d, depth+1)
			if err != nil {
				return nil, err
			}
			m.Set(k.(string), v) // the decoder gives nothing else here
		}
		return m, closing(d)
	}
	return t, nil
}

// closing takes the bracket that ends an array or object.
func closing(d *json.Decoder) error {
	_, err := d.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func number(n json.Number) (any, error) {
	if !strings.ContainsAny(n.String(), ".eE") {
		i, err := n.Int64()
		if err != nil {
			return nil, fmt.Errorf("integer %.40s is beyond 64 bits", n.String())
		}
		return i, nil
	}
	f, err := n.Float64()
	if err != nil {
		return nil, fmt.Errorf("number %.40s is beyond float64", n.String())
	}
	return f, nil
}

// kind names a value's type for errors, in Python's words.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case *List:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *Dict:
		return "dict"
	case undefined:
		return "undefined value"
	case *namespace:
		return "namespace"
	case *function:
		return "function"
	}
	return "loop"
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *List:
		return len(v.Items) > 0
	case *Dict:
		return v.Len() > 0
	}
	return true
}

// toInt is a bool or an int as an int.
func toInt(v any) int64 {
	switch v := v.(type) {
	case bool:
		if v {
			return 1
		}
		return 0
	case int64:
		return v
	}
	return 0
}

// integer is v as an index or a count.
func integer(v any) (int64, bool) {
	switch v.(type) {
	case bool, int64:
		return toInt(v), true
	}
	return 0, false
}

// float is a number as a float.
func float(v any) (float64, bool) {
	if f, ok := v.(float64); ok {
		return f, true
	}
	i, ok := integer(v)
	return float64(i), ok
}

// equal is Python's ==. Values that a template built are bounded in neither depth
// nor, since lists share parts, in size: both are counted, and what goes too far
// ends the rendering at the next step.
func (s *state) equal(a, b any) bool { return s.equalAt(a, b, 0) }

func (s *state) equalAt(a, b any, depth int) bool {
	if !s.deeper(depth) {
		return false
	}
	if x, ok := float(a); ok {
		y, ok := float(b)
		if ai, aok := integer(a); aok {
			if bi, bok := integer(b); bok {
				return ai == bi
			}
		}
		return ok && x == y
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		b, ok := b.(string)
		return ok && a == b
	case undefined:
		_, ok := b.(undefined)
		return ok
	case *List:
		b, ok := b.(*List)
		if !ok || len(a.Items) != len(b.Items) || a.tuple != b.tuple {
			return false
		}
		for i := range a.Items {
			if !s.equalAt(a.Items[i], b.Items[i], depth+1) {
				return false
			}
		}
		return true
	case *Dict:
		b, ok := b.(*Dict)
		if !ok || a.Len() != b.Len() {
			return false
		}
		for i, k := range a.keys {
			if v, ok := b.get(k); !ok || !s.equalAt(a.vals[i], v, depth+1) {
				return false
			}
		}
		return true
	}
	return a == b // namespaces, functions and loops are pointers
}

// less is Python's <.
func (s *state) less(a, b any) (bool, error) { return s.lessAt(a, b, 0) }

func (s *state) lessAt(a, b any, depth int) (bool, error) {
	if !s.deeper(depth) {
		return false, s.exceeded
	}
	if x, ok := float(a); ok {
		if y, ok := float(b); ok {
			return x < y, nil
		}
	}
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return x < y, nil // UTF-8 orders as code points do
		}
	case *List:
		if y, ok := b.(*List); ok && x.tuple == y.tuple {
			for i := range min(len(x.Items), len(y.Items)) {
				if !s.equalAt(x.Items[i], y.Items[i], depth+1) {
					return s.lessAt(x.Items[i], y.Items[i], depth+1)
				}
			}
			return len(x.Items) < len(y.Items), nil
		}
	}
	return false, fmt.Errorf("a %s and a %s have no order", kind(a), kind(b))
}

// size is about how many bytes of text v holds, for the rendering's budget.
func size(v any) int {
	switch v := v.(type) {
	case string:
		return len(v)
	case *List:
		n := 16
		for _, e := range v.Items {
			n += size(e)
		}
		return n
	case *Dict:
		n := 16
		for i := range v.keys {
			n += size(v.keys[i]) + size(v.vals[i])
		}
		return n
	}
	return 8
}
