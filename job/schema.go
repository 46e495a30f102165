package job

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"

	"github.com/invopop/jsonschema"
)

// Schema is the JSON schema (draft 2020-12) of a job file, for editors and for other programs. It knows each field's type,
// default, allowed values and meaning; what fields must not say together only Load checks.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{
		Anonymous: true, DoNotReference: true, ExpandedStruct: true,
		FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case reflect.TypeFor[Stage](), reflect.TypeFor[Toggle]():
				return &jsonschema.Schema{} // their enum says it
			case reflect.TypeFor[Bytes]():
				return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
					{Type: "integer"}, {Type: "string", Pattern: `^ *[0-9.]+([eE][-+]?[0-9]+)? *([KMGT]iB|[kKMGT]?B)? *$`},
				}}
			}
			return nil
		},
	}
	root := r.Reflect(&Job{})
	root.Title = "zerofleet job"
	if err := annotate(root, reflect.TypeFor[Job]()); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(root)
	return b.Bytes(), err
}

// annotate adds to the schema of a section what the tags of t say.
func annotate(section *jsonschema.Schema, t reflect.Type) error {
	for _, f := range fieldsOf(t) {
		s, found := section.Properties.Get(f.name)
		if !found {
			return fmt.Errorf("schema: section of %s has no field %s", t, f.name)
		}
		ft := t.Field(f.index).Type
		element, subject := ft, s
		switch ft.Kind() {
		case reflect.Pointer:
			element = ft.Elem()
		case reflect.Slice, reflect.Array:
			element, subject = ft.Elem(), s.Items
		}
		if element.Kind() == reflect.Struct {
			if err := annotate(subject, element); err != nil {
				return err
			}
		}
		f.constrain(subject)
		if f.fallback != "" {
			s.Default = plain(f.fallbackNode())
		}
		if f.required || ft.Kind() == reflect.Struct && hasRequired(ft) {
			section.Required = append(section.Required, f.name)
		} else if f.fallback == "" && element.Kind() != reflect.Struct {
			nullable(s)
		}
		s.Description, s.Comments = f.doc, f.derived
	}
	return nil
}

func hasRequired(t reflect.Type) bool {
	return slices.ContainsFunc(fieldsOf(t), func(f fieldSpec) bool { return f.required })
}

// constrain adds what values are allowed.
func (f fieldSpec) constrain(s *jsonschema.Schema) {
	for _, e := range f.enum {
		s.Enum = append(s.Enum, plain(&node{kind: scalar, text: e}))
	}
	if f.bounds == nil {
		return
	}
	for _, limited := range append([]*jsonschema.Schema{s}, s.AnyOf...) {
		if limited.Type != "integer" && limited.Type != "number" {
			continue
		}
		lo, hi := jsonNumber(f.bounds.lo), jsonNumber(f.bounds.hi)
		if f.bounds.loOpen {
			limited.ExclusiveMinimum = lo
		} else {
			limited.Minimum = lo
		}
		switch {
		case math.IsInf(f.bounds.hi, 1):
		case f.bounds.hiOpen:
			limited.ExclusiveMaximum = hi
		default:
			limited.Maximum = hi
		}
	}
}

func jsonNumber(x float64) json.Number { return json.Number(strconv.FormatFloat(x, 'f', -1, 64)) }

// nullable lets a field be null, which says "not set".
func nullable(s *jsonschema.Schema) {
	if len(s.Enum) > 0 {
		s.Type, s.Enum = "", append(s.Enum, nil)
		return
	}
	inner := *s
	*s = jsonschema.Schema{AnyOf: []*jsonschema.Schema{&inner, {Type: "null"}}}
}

// plain is a node as a JSON value.
func plain(n *node) any {
	if n.kind == list {
		out := make([]any, len(n.items))
		for i, item := range n.items {
			out[i] = plain(item)
		}
		return out
	}
	switch typeOf(n.text) {
	case boolType:
		return n.text == "true"
	case intType, floatType:
		if x, err := strconv.ParseFloat(n.text, 64); err == nil {
			return jsonNumber(x)
		}
	}
	return n.text
}
