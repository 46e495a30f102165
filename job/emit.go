package job

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// emit writes a job as a document that Load reads: every field but those that are not set, in the order of the structs.
func emit(j *Job) []byte {
	var b bytes.Buffer
	emitSection(&b, reflect.ValueOf(j).Elem(), "")
	return b.Bytes()
}

func emitSection(b *bytes.Buffer, v reflect.Value, indent string) {
	for _, s := range fieldsOf(v.Type()) {
		f := v.Field(s.index)
		if s.unset(f) {
			continue
		}
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		fmt.Fprintf(b, "%s%s:", indent, s.name)
		switch {
		case f.Kind() == reflect.Struct:
			b.WriteByte('\n')
			emitSection(b, f, indent+"  ")
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			b.WriteByte('\n')
			for i := range f.Len() {
				var item bytes.Buffer
				emitSection(&item, f.Index(i), indent+"    ")
				fmt.Fprintf(b, "%s  - %s", indent, strings.TrimLeft(item.String(), " "))
			}
		case f.Kind() == reflect.Slice, f.Kind() == reflect.Array:
			items := make([]string, f.Len())
			for i := range items {
				items[i] = text(f.Index(i))
			}
			fmt.Fprintf(b, " [%s]\n", strings.Join(items, ", "))
		default:
			fmt.Fprintf(b, " %s\n", text(f))
		}
	}
}

// unset says whether a field stands at "not set", which the document says by leaving it out.
func (s fieldSpec) unset(v reflect.Value) bool {
	if v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return s.fallback == "" && v.Kind() != reflect.Struct && v.IsZero()
}

// bare is text that YAML reads as itself in a block and in a flow list.
var bare = regexp.MustCompile(`^[A-Za-z0-9_./+-]([A-Za-z0-9_./:+-]*[A-Za-z0-9_./+-])?$`)

// text is a scalar as the document writes it.
func text(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case Stage:
		return x.String()
	case Toggle:
		return string(x)
	case Bytes:
		return x.String()
	case float64:
		f := strconv.FormatFloat(x, 'g', -1, 64)
		if m, e, found := strings.Cut(f, "e"); found && !strings.Contains(m, ".") {
			f = m + ".0e" + e // YAML 1.1 readers take 1e-08 for text
		}
		return f
	case string:
		if bare.MatchString(x) && typeOf(x) == stringType && !strings.HasPrefix(x, "-") {
			return x
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b) // a JSON string is a YAML string
		e.SetEscapeHTML(false)
		if err := e.Encode(x); err != nil {
			panic(err) // a string always encodes
		}
		return strings.TrimSpace(b.String())
	}
	return fmt.Sprint(v.Interface())
}
