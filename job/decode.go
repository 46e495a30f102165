package job

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// decoder fills a Job from nodes.
type decoder struct {
	faults Faults
	at     map[string]position
}

func (d *decoder) bad(at position, path, format string, args ...any) {
	d.faults = append(d.faults, Fault{at: at, Path: path, Message: fmt.Sprintf(format, args...)})
}

// section fills a struct: what is written from n, the rest from the defaults. n is nil when nothing is written.
func (d *decoder) section(path string, n *node, v reflect.Value) {
	if n != nil && n.kind == null {
		n = nil // "train:" with nothing below it
	}
	if n != nil && n.kind != mapping {
		d.bad(n.at, path, "%s: want a section of fields", n.describe())
		n = nil
	}
	specs := fieldsOf(v.Type())
	if n != nil {
		for _, f := range n.fields {
			if !slices.ContainsFunc(specs, func(s fieldSpec) bool { return s.name == f.name }) {
				d.unknown(path, f, specs)
			}
		}
	}
	for _, s := range specs {
		sub := join(path, s.name)
		var value *node
		if n != nil {
			if f := n.field(s.name); f != nil {
				d.at[sub], value = f.at, f.value
			}
		}
		d.field(sub, value, v.Field(s.index), s)
	}
}

// unknown explains a field that is not in the section.
func (d *decoder) unknown(path string, f field, specs []fieldSpec) {
	full := join(path, f.name)
	if slices.Contains(absentFields, full) {
		d.bad(f.at, full, "not available in this version")
		return
	}
	if near := nearest(f.name, names(specs)); near != "" {
		d.bad(f.at, full, "unknown field (did you mean %q?)", near)
	} else if elsewhere := knownAs(f.name); elsewhere != "" {
		d.bad(f.at, full, "unknown field (did you mean %s?)", elsewhere)
	} else if path == "" {
		d.bad(f.at, full, "unknown field")
	} else {
		d.bad(f.at, full, "unknown field; %s has %s", path, strings.Join(names(specs), ", "))
	}
}

// field fills one field.
func (d *decoder) field(path string, n *node, v reflect.Value, s fieldSpec) {
	isSection := v.Kind() == reflect.Struct
	if v.Kind() == reflect.Pointer {
		if n == nil || n.kind == null {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		v, isSection = v.Elem(), true
	}
	if isSection {
		d.section(path, n, v)
		return
	}
	if n != nil && n.kind == null {
		if s.required || s.fallback != "" {
			d.bad(d.at[path], path, "null: want %s", s.want(v.Type()))
			n = nil
		} else {
			return // null says: not set
		}
	}
	if n == nil {
		if s.required {
			d.bad(d.nearest(path), path, "required: %s", s.doc)
		}
		if s.fallback != "" {
			d.value(path, s.fallbackNode(), v, s)
		}
		return
	}
	d.value(path, n, v, s)
}

func (d *decoder) nearest(path string) position {
	return (&Job{at: d.at}).position(path)
}

// value fills a field that is written.
func (d *decoder) value(path string, n *node, v reflect.Value, s fieldSpec) {
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		d.list(path, n, v, s)
		return
	}
	if n.kind != scalar {
		d.bad(n.at, path, "%s: want %s", n.describe(), s.want(v.Type()))
		return
	}
	if len(s.enum) > 0 && !d.enum(path, n, s) {
		return
	}
	if err := parse(n, v); err != nil {
		d.bad(n.at, path, "%s: want %s", n.describe(), s.want(v.Type()))
		return
	}
	if x, isNumber := number(v); isNumber && s.bounds != nil && !s.bounds.contains(x) {
		d.bad(n.at, path, "%s: want %s", n.describe(), s.want(v.Type()))
	}
}

func (d *decoder) list(path string, n *node, v reflect.Value, s fieldSpec) {
	if n.kind != list {
		d.bad(n.at, path, "%s: want %s", n.describe(), s.want(v.Type()))
		return
	}
	if v.Kind() == reflect.Array && len(n.items) != v.Len() {
		d.bad(n.at, path, "%d values: want %s", len(n.items), s.want(v.Type()))
		return
	}
	if v.Kind() == reflect.Slice {
		v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
	}
	for i, item := range n.items {
		sub := fmt.Sprintf("%s[%d]", path, i)
		d.at[sub] = item.at
		if v.Type().Elem().Kind() == reflect.Struct {
			if item.kind != mapping {
				d.bad(item.at, sub, "%s: want a section of fields, such as {path: data/train.jsonl}", item.describe())
				continue
			}
			d.section(sub, item, v.Index(i))
			continue
		}
		d.value(sub, item, v.Index(i), s)
	}
}

// enum checks that a scalar is one of the allowed ones, in text and in type.
func (d *decoder) enum(path string, n *node, s fieldSpec) bool {
	for _, e := range s.enum {
		if n.text == e && (!n.quoted || typeOf(e) == stringType) {
			return true
		}
	}
	absent := absentValues[indexes.ReplaceAllString(path, "")]
	if slices.Contains(absent, n.text) || slices.Contains(absent, anyOther) {
		d.bad(n.at, path, "%s: not available in this version: want %s", n.describe(), oneOf(s.enum))
		return false
	}
	if near := nearest(n.text, s.enum); near != "" && !n.quoted {
		d.bad(n.at, path, "%s: want %s (did you mean %s?)", n.describe(), oneOf(s.enum), near)
	} else {
		d.bad(n.at, path, "%s: want %s", n.describe(), oneOf(s.enum))
	}
	return false
}

var indexes = regexp.MustCompile(`\[[0-9]+\]`)

// scalarType is what a plain scalar is under YAML 1.2's core schema.
type scalarType uint8

const (
	stringType scalarType = iota
	nullType
	boolType
	intType
	floatType
)

var (
	intText   = regexp.MustCompile(`^[-+]?[0-9]+$`)
	hexText   = regexp.MustCompile(`^0(x[0-9a-fA-F]+|o[0-7]+)$`)
	floatText = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	otherText = regexp.MustCompile(`^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

func typeOf(text string) scalarType {
	switch text {
	case "", "~", "null", "Null", "NULL":
		return nullType
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return boolType
	}
	switch {
	case intText.MatchString(text), hexText.MatchString(text):
		return intType
	case floatText.MatchString(text), otherText.MatchString(text):
		return floatType
	}
	return stringType
}

var errType = fmt.Errorf("wrong type")

// parse stores a scalar into v if it has v's type.
func parse(n *node, v reflect.Value) error {
	t := stringType
	if !n.quoted {
		t = typeOf(n.text)
	}
	switch p := v.Addr().Interface().(type) {
	case *Stage: // the enum has been checked
		*p = StageAuto
		if t == intType {
			i, err := strconv.Atoi(n.text)
			*p = Stage(i)
			return err
		}
		return nil
	case *Toggle:
		*p = Toggle(n.text)
		return nil
	case *Bytes:
		if t != intType && t != stringType || n.quoted && typeOf(n.text) != stringType {
			return errType
		}
		b, err := ParseBytes(n.text)
		*p = b
		return err
	}
	switch v.Kind() {
	case reflect.String:
		if t != stringType || n.text == "" {
			return errType
		}
		v.SetString(n.text)
	case reflect.Bool:
		if t != boolType {
			return errType
		}
		v.SetBool(strings.EqualFold(n.text, "true"))
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(strings.TrimPrefix(n.text, "+"), base(n.text), 64)
		if t != intType || err != nil {
			return errType
		}
		v.SetInt(i)
	case reflect.Uint64:
		u, err := strconv.ParseUint(strings.TrimPrefix(n.text, "+"), base(n.text), 64)
		if t != intType || err != nil {
			return errType
		}
		v.SetUint(u)
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.text, 64)
		if t != intType && t != floatType || err != nil || math.IsInf(f, 0) || math.IsNaN(f) || hexText.MatchString(n.text) {
			return errType
		}
		v.SetFloat(f)
	}
	return nil
}

// base is what strconv needs: decimal unless a prefix says otherwise, so that 010 is ten.
func base(text string) int {
	if hexText.MatchString(text) {
		return 0
	}
	return 10
}

func number(v reflect.Value) (float64, bool) {
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		return float64(v.Int()), true
	case reflect.Uint64:
		return float64(v.Uint()), true
	case reflect.Float64:
		return v.Float(), true
	}
	return 0, false
}
