package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

func toInteger(_ *state, v any, a args) (any, error) {
	def := a.get(0, "default", int64(0))
	base, err := a.count(1, "base", 10)
	if err != nil || base < 0 || base == 1 || base > 36 {
		return nil, errors.New("base: want 0, or 2 to 36")
	}
	if i, ok := integer(v); ok {
		return i, nil
	}
	switch v := v.(type) {
	case float64:
		if math.Abs(v) < 1<<62 {
			return int64(v), nil
		}
	case string:
		t := strings.TrimFunc(v, isSpace)
		if prefix := map[int64]string{16: "0x", 8: "0o", 2: "0b"}[base]; prefix != "" {
			t = strings.TrimPrefix(strings.ToLower(t), prefix)
		}
		if i, err := strconv.ParseInt(t, int(base), 64); err == nil {
			return i, nil
		}
		if f, err := strconv.ParseFloat(t, 64); err == nil && math.Abs(f) < 1<<62 {
			return int64(f), nil
		}
	}
	return def, nil
}

func toFloat(_ *state, v any, a args) (any, error) {
	if f, ok := float(v); ok {
		return f, nil
	}
	if t, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimFunc(t, isSpace), 64); err == nil {
			return f, nil
		}
	}
	return a.get(0, "default", 0.0), nil
}

func round(_ *state, v any, a args) (any, error) {
	f, ok := float(v)
	if !ok {
		return nil, fmt.Errorf("want a number, got a %s", kind(v))
	}
	digits, err := a.count(0, "precision", 0)
	if err != nil || digits < 0 || digits > 15 {
		return nil, errors.New("precision: want 0 to 15")
	}
	unit := math.Pow10(int(digits))
	switch a.get(1, "method", "common") {
	case "ceil":
		return math.Ceil(f*unit) / unit, nil
	case "floor":
		return math.Floor(f*unit) / unit, nil
	case "common": // as Python's round: the decimal nearest to the float's exact value, even on a tie
		return strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(digits), 64), 64)
	}
	return nil, errors.New("method: want common, ceil or floor")
}

func escape(s *state, v any, _ args) (any, error) {
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	t = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").Replace(t)
	return t, s.made(len(t))
}

func indent(s *state, v any, a args) (any, error) {
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	var by string
	switch w := a.get(0, "width", int64(4)).(type) {
	case string:
		by = w
	case int64:
		if w > 1000 {
			return nil, errors.New("width beyond 1000")
		}
		by = strings.Repeat(" ", int(max(w, 0)))
	default:
		return nil, fmt.Errorf("width: want an int or a str, got a %s", kind(w))
	}
	if err := s.made(len(t) + len(by)*(1+strings.Count(t, "\n"))); err != nil {
		return nil, err
	}
	blank := truth(a.get(2, "blank", false))
	lines := strings.Split(t, "\n")
	for i, line := range lines {
		if i > 0 && (blank || line != "") {
			lines[i] = by + line
		}
	}
	t = strings.Join(lines, "\n")
	if truth(a.get(1, "first", false)) {
		t = by + t
	}
	return t, nil
}

func truncate(s *state, v any, a args) (any, error) {
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	n, err := a.count(0, "length", 255)
	if err != nil {
		return nil, err
	}
	end, err := a.text(2, "end", "...")
	if err != nil {
		return nil, err
	}
	leeway, err := a.count(3, "leeway", 5)
	if err != nil || n < int64(runes(end)) || leeway < 0 {
		return nil, errors.New("want a length of at least the end's, and a leeway of at least 0")
	}
	all := []rune(t)
	if int64(len(all)) <= n+leeway {
		return t, nil
	}
	cut := string(all[:n-int64(runes(end))])
	if !truth(a.get(1, "killwords", false)) {
		if i := strings.LastIndexByte(cut, ' '); i >= 0 {
			cut = cut[:i]
		}
	}
	return cut + end, s.made(8 * len(t))
}

// titled makes the first letter of each word upper case and the others lower; a
// word ends at white space or one of -({[<.
func titled(s *state, v any, _ args) (any, error) {
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	start := true
	return strings.Map(func(r rune) rune {
		first := start
		start = isSpace(r) || strings.ContainsRune("-({[<", r)
		if first {
			return unicode.ToUpper(r)
		}
		return unicode.ToLower(r)
	}, t), s.made(len(t))
}

func urlEncode(s *state, v any, _ args) (any, error) {
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i := range len(t) {
		if c := t[i]; isAlnum(rune(c)) || strings.IndexByte("_.-~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String(), s.made(b.Len())
}

func formatPercent(s *state, v any, a args) (any, error) {
	t, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("want a str, got a %s", kind(v))
	}
	if a.named.Len() > 0 {
		return s.percent(t, &a.named)
	}
	return s.percent(t, &List{Items: a.positional, tuple: true})
}

// percent is Python's "%s: %d" % values, with s, r, d, i, f and x, widths and
// precisions, and names of a dictionary.
func (s *state) percent(t string, v any) (any, error) {
	values := []any{v}
	if l, ok := v.(*List); ok && l.tuple {
		values = l.Items
	}
	names, _ := v.(*Dict)
	var b strings.Builder
	for i := 0; i < len(t); i++ {
		if t[i] != '%' {
			b.WriteByte(t[i])
			continue
		}
		i++
		var value any
		named := false
		if i < len(t) && t[i] == '(' && names != nil {
			end := strings.IndexByte(t[i:], ')')
			if end < 0 {
				return nil, errors.New("format: a name without )")
			}
			x, ok := names.get(t[i+1 : i+end])
			if !ok {
				return nil, fmt.Errorf("format: no value named %q", clip(t[i+1:i+end]))
			}
			value, named = x, true
			i += end + 1
		}
		from := i
		for i < len(t) && strings.IndexByte("-+ 0123456789.", t[i]) >= 0 {
			i++
		}
		if i == len(t) || i-from > 8 {
			return nil, errors.New("format: a directive without its letter")
		}
		if t[i] == '%' {
			b.WriteByte('%')
			continue
		}
		if !named {
			if len(values) == 0 {
				return nil, errors.New("format: too few values")
			}
			value, values = values[0], values[1:]
		}
		text, err := s.directive(t[from:i], t[i], value)
		if err != nil {
			return nil, err
		}
		b.WriteString(text)
		if err := s.made(len(text)); err != nil {
			return nil, err
		}
	}
	if names == nil && len(values) > 0 {
		return nil, errors.New("format: too many values")
	}
	return b.String(), s.made(b.Len())
}

// maxWidth bounds a directive's width and precision.
const maxWidth = 1000

func (s *state) directive(flags string, letter byte, v any) (string, error) {
	for _, n := range strings.FieldsFunc(flags, func(r rune) bool { return r < '0' || r > '9' }) {
		if w, err := strconv.Atoi(n); err != nil || w > maxWidth {
			return "", fmt.Errorf("format: width or precision beyond %d", maxWidth)
		}
	}
	switch letter {
	case 's':
		t, err := s.str(v)
		return fmt.Sprintf("%"+flags+"s", t), err
	case 'r':
		var b strings.Builder
		err := s.repr(&b, v, 0)
		return fmt.Sprintf("%"+flags+"s", b.String()), err
	case 'd', 'i', 'x':
		if f, ok := v.(float64); ok && math.Abs(f) < 1<<62 && letter != 'x' {
			v = int64(f)
		}
		n, ok := integer(v)
		if !ok {
			return "", fmt.Errorf("format: %%%c wants a number, got a %s", letter, kind(v))
		}
		if letter == 'i' {
			letter = 'd'
		}
		return fmt.Sprintf("%"+flags+string(letter), n), nil
	case 'f':
		f, ok := float(v)
		if !ok {
			return "", fmt.Errorf("format: %%f wants a number, got a %s", kind(v))
		}
		return fmt.Sprintf("%"+flags+"f", f), nil
	}
	return "", fmt.Errorf("format: %%%c is not supported", letter)
}

// format is str.format with {}, {0} and {name}; conversions and format
// specifications are refused.
func (s *state) format(t string, a args) (any, error) {
	var b strings.Builder
	next := 0
	for i := 0; i < len(t); i++ {
		switch {
		case strings.HasPrefix(t[i:], "{{"), strings.HasPrefix(t[i:], "}}"):
			b.WriteByte(t[i])
			i++
		case t[i] == '{':
			end := strings.IndexByte(t[i:], '}')
			if end < 0 {
				return nil, errors.New("a { without }")
			}
			name := t[i+1 : i+end]
			i += end
			var v any = undefined{"that value"}
			if n, err := strconv.Atoi(name); err == nil {
				v = a.get(max(n, 0), "", v)
			} else if name == "" {
				v = a.get(next, "", v)
				next++
			} else {
				v = a.get(-1, name, v)
			}
			if u, missing := v.(undefined); missing {
				return nil, fmt.Errorf("{%s}: %w", clip(name), u.err())
			}
			text, err := s.str(v)
			if err != nil {
				return nil, err
			}
			b.WriteString(text)
			if err := s.made(len(text)); err != nil {
				return nil, err
			}
		default:
			b.WriteByte(t[i])
		}
	}
	return b.String(), s.made(b.Len())
}
