package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str is Python's str(v), which is also what {{ v }} prints.
func (s *state) str(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case undefined:
		return "", nil
	}
	var b strings.Builder
	if err := s.repr(&b, v, 0); err != nil {
		return "", err
	}
	return b.String(), s.made(b.Len())
}

// elementBytes is what each element of a printed value counts for.
const elementBytes = 32

// repr is Python's repr(v).
func (s *state) repr(b *strings.Builder, v any, depth int) error {
	if depth > maxJSONDepth {
		return errDeep
	}
	if err := s.made(elementBytes); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(formatFloat(v))
	case string:
		quote(b, v)
		return s.made(len(v))
	case undefined:
		b.WriteString("Undefined")
	case *List:
		opening, closing := "[", "]"
		if v.tuple {
			opening, closing = "(", ")"
			if len(v.Items) == 1 {
				closing = ",)"
			}
		}
		b.WriteString(opening)
		for i, e := range v.Items {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := s.repr(b, e, depth+1); err != nil {
				return err
			}
		}
		b.WriteString(closing)
	case *Dict:
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := s.repr(b, k, depth+1); err != nil {
				return err
			}
			b.WriteString(": ")
			if err := s.repr(b, v.vals[i], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	default:
		return fmt.Errorf("a %s cannot be printed", kind(v))
	}
	return nil
}

// formatFloat is Python's repr of a float: the shortest digits that read back,
// with an exponent below 1e-4 and from 1e16 on.
func formatFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64) // at least two digits of exponent, as in Python
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quote is Python's repr of a string.
func quote(b *strings.Builder, s string) {
	mark := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		mark = '"'
	}
	b.WriteByte(mark)
	for _, r := range s {
		switch {
		case r == rune(mark) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			fmt.Fprintf(b, `\U%08x`, r)
		}
	}
	b.WriteByte(mark)
}

// jsonStyle are the arguments of tojson: json.dumps's.
type jsonStyle struct {
	ascii, sorted bool
	indent        string // "" for one line
	lines         bool
	comma, colon  string
}

// json is Python's json.dumps.
func (s *state) json(b *strings.Builder, v any, o jsonStyle, depth int) error {
	if depth > maxJSONDepth {
		return errDeep
	}
	if err := s.made(elementBytes); err != nil {
		return err
	}
	newline := func(depth int) {
		if o.lines {
			b.WriteByte('\n')
			for range depth {
				b.WriteString(o.indent)
			}
		}
	}
	switch v := v.(type) {
	case nil, bool, int64, float64:
		b.WriteString(jsonScalar(v))
	case string:
		jsonString(b, v, o.ascii)
		return s.made(len(v))
	case *List:
		if len(v.Items) == 0 {
			b.WriteString("[]")
			return nil
		}
		b.WriteByte('[')
		for i, e := range v.Items {
			if i > 0 {
				b.WriteString(o.comma)
			}
			newline(depth + 1)
			if err := s.json(b, e, o, depth+1); err != nil {
				return err
			}
		}
		newline(depth)
		b.WriteByte(']')
	case *Dict:
		if v.Len() == 0 {
			b.WriteString("{}")
			return nil
		}
		order, err := s.jsonOrder(v, o.sorted)
		if err != nil {
			return err
		}
		b.WriteByte('{')
		for i, k := range order {
			if i > 0 {
				b.WriteString(o.comma)
			}
			newline(depth + 1)
			if key, ok := v.keys[k].(string); ok {
				jsonString(b, key, o.ascii)
			} else {
				jsonString(b, jsonScalar(v.keys[k]), o.ascii)
			}
			b.WriteString(o.colon)
			if err := s.json(b, v.vals[k], o, depth+1); err != nil {
				return err
			}
		}
		newline(depth)
		b.WriteByte('}')
	default:
		return fmt.Errorf("a %s is not JSON", kind(v))
	}
	return nil
}

// jsonOrder is the order in which a dictionary's members are written.
func (s *state) jsonOrder(d *Dict, sorted bool) ([]int, error) {
	order := make([]any, d.Len())
	for i := range order {
		order[i] = int64(i)
	}
	if sorted {
		err := sortValues(order, func(a, b any) (bool, error) { return s.less(d.keys[toInt(a)], d.keys[toInt(b)]) })
		if err != nil {
			return nil, err
		}
	}
	out := make([]int, len(order))
	for i, v := range order {
		out[i] = int(toInt(v))
	}
	return out, nil
}

func jsonScalar(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		switch {
		case math.IsInf(v, 1):
			return "Infinity"
		case math.IsInf(v, -1):
			return "-Infinity"
		case math.IsNaN(v):
			return "NaN"
		}
		return formatFloat(v)
	}
	return ""
}

func jsonString(b *strings.Builder, s string, ascii bool) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r < 0x20 || ascii && r > 0x7e && r < 0x10000:
			fmt.Fprintf(b, `\u%04x`, r)
		case ascii && r >= 0x10000:
			r -= 0x10000
			fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

// runes counts a string as Python does, in code points.
func runes(s string) int { return utf8.RuneCountInString(s) }

// isSpace is what Python's str.strip removes: Unicode white space and the four
// separators U+001C to U+001F.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
