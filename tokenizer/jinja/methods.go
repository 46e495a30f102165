package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// method makes a function of a value's method.
func method(name string, call func(s *state, a args) (any, error)) *function {
	return &function{name, func(s *state, a args) (any, error) {
		v, err := call(s, a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return v, nil
	}}
}

// text is a string argument; def when absent and def is not nil.
func (a *args) text(i int, name string, def any) (string, error) {
	v := a.get(i, name, def)
	if t, ok := v.(string); ok {
		return t, nil
	}
	return "", fmt.Errorf("want a str, got a %s", kind(v))
}

// count is an integer argument.
func (a *args) count(i int, name string, def int64) (int64, error) {
	v := a.get(i, name, def)
	if n, ok := integer(v); ok {
		return n, nil
	}
	return 0, fmt.Errorf("want an int, got a %s", kind(v))
}

func dictMethod(d *Dict, name string) *function {
	switch name {
	case "items":
		return method(name, func(s *state, a args) (any, error) { return d.pairs(), s.made(64 * d.Len()) })
	case "keys":
		return method(name, func(s *state, a args) (any, error) { return &List{Items: d.keys}, nil })
	case "values":
		return method(name, func(s *state, a args) (any, error) { return &List{Items: d.vals}, nil })
	case "copy":
		return method(name, func(s *state, a args) (any, error) { return d, nil })
	case "get":
		return method(name, func(s *state, a args) (any, error) {
			if len(a.positional) == 0 {
				return nil, errors.New("want a key")
			}
			if v, ok := d.get(a.positional[0]); ok {
				return v, nil
			}
			return a.get(1, "default", nil), nil
		})
	}
	return nil
}

func listMethod(l *List, name string) *function {
	switch name {
	case "index", "count":
		return method(name, func(s *state, a args) (any, error) {
			n := int64(0)
			for i, v := range l.Items {
				if s.equal(v, a.get(0, "", nil)) {
					if name == "index" {
						return int64(i), nil
					}
					n++
				}
			}
			if name == "index" {
				return nil, errors.New("no such item")
			}
			return n, nil
		})
	case "copy":
		return method(name, func(s *state, a args) (any, error) { return l, nil })
	}
	return nil
}

// cutset is the argument of strip: the characters to remove, or white space.
func cutset(a args) (func(rune) bool, error) {
	v := a.get(0, "chars", nil)
	if v == nil {
		return isSpace, nil
	}
	set, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("want a str, got a %s", kind(v))
	}
	return func(r rune) bool { return strings.ContainsRune(set, r) }, nil
}

// stringMethods are Python's that templates use.
var stringMethods = map[string]func(s *state, t string, a args) (any, error){
	"strip":        trimmer(strings.TrimFunc),
	"lstrip":       trimmer(strings.TrimLeftFunc),
	"rstrip":       trimmer(strings.TrimRightFunc),
	"upper":        changer(func(t string) string { return cases.Upper(language.Und).String(t) }),
	"lower":        changer(func(t string) string { return cases.Lower(language.Und).String(t) }),
	"casefold":     changer(func(t string) string { return cases.Fold().String(t) }),
	"title":        changer(title),
	"capitalize":   changer(capitalize),
	"swapcase":     changer(swapcase),
	"startswith":   affix(strings.HasPrefix),
	"endswith":     affix(strings.HasSuffix),
	"removeprefix": remover(strings.TrimPrefix),
	"removesuffix": remover(strings.TrimSuffix),
	"isdigit":      every(unicode.IsDigit),
	"isdecimal":    every(unicode.IsDigit),
	"isnumeric":    every(unicode.IsNumber),
	"isalpha":      every(unicode.IsLetter),
	"isalnum":      every(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
	"isspace":      every(isSpace),
	"isupper":      cased(unicode.IsLower, unicode.IsUpper),
	"islower":      cased(unicode.IsUpper, unicode.IsLower),
	"find":         finder(strings.Index, false),
	"rfind":        finder(strings.LastIndex, false),
	"index":        finder(strings.Index, true),
	"rindex":       finder(strings.LastIndex, true),
	"split":        func(s *state, t string, a args) (any, error) { return s.split(t, a, false) },
	"rsplit":       func(s *state, t string, a args) (any, error) { return s.split(t, a, true) },
	"splitlines":   splitLines,
	"partition": func(s *state, t string, a args) (any, error) {
		sep, err := a.text(0, "sep", nil)
		before, after, ok := strings.Cut(t, sep)
		if !ok {
			sep = ""
		}
		return &List{[]any{before, sep, after}, true}, err
	},
	"rpartition": func(s *state, t string, a args) (any, error) {
		sep, err := a.text(0, "sep", nil)
		if i := strings.LastIndex(t, sep); i >= 0 {
			return &List{[]any{t[:i], sep, t[i+len(sep):]}, true}, err
		}
		return &List{[]any{"", "", t}, true}, err
	},
	"count": func(s *state, t string, a args) (any, error) {
		part, err := a.text(0, "sub", nil)
		return int64(strings.Count(t, part)), err
	},
	"join": func(s *state, t string, a args) (any, error) {
		items, err := s.iterate(a.get(0, "iterable", nil))
		if err != nil {
			return nil, err
		}
		parts := make([]string, len(items))
		n := 0
		for i, v := range items {
			part, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("item %d: want a str, got a %s", i, kind(v))
			}
			parts[i] = part
			n += len(part) + len(t)
		}
		if err := s.made(n); err != nil {
			return nil, err
		}
		return strings.Join(parts, t), nil
	},
	"replace": func(s *state, t string, a args) (any, error) { return s.replace(t, a) },
	"zfill": func(s *state, t string, a args) (any, error) {
		width, err := a.count(0, "width", 0)
		if err != nil {
			return nil, err
		}
		sign := ""
		if strings.HasPrefix(t, "-") || strings.HasPrefix(t, "+") {
			sign, t = t[:1], t[1:]
		}
		_, left, err := s.padding(width, len(sign)+runes(t), "0")
		return sign + left + t, err
	},
	"ljust": func(s *state, t string, a args) (any, error) {
		_, right, err := s.justify(t, a)
		return t + right, err
	},
	"rjust": func(s *state, t string, a args) (any, error) {
		_, left, err := s.justify(t, a)
		return left + t, err
	},
	"center": func(s *state, t string, a args) (any, error) {
		half, all, err := s.justify(t, a)
		return half + t + all[len(half):], err
	},
	"format": func(s *state, t string, a args) (any, error) { return s.format(t, a) },
}

func stringMethod(t, name string) *function {
	m, ok := stringMethods[name]
	if !ok {
		return nil
	}
	return method(name, func(s *state, a args) (any, error) {
		if err := s.made(len(t)); err != nil {
			return nil, err
		}
		return m(s, t, a)
	})
}

type stringFunc = func(s *state, t string, a args) (any, error)

func trimmer(trim func(string, func(rune) bool) string) stringFunc {
	return func(_ *state, t string, a args) (any, error) {
		set, err := cutset(a)
		if err != nil {
			return nil, err
		}
		return trim(t, set), nil
	}
}

func changer(change func(string) string) stringFunc {
	return func(_ *state, t string, _ args) (any, error) { return change(t), nil }
}

// affix is startswith or endswith: of a string, or of any in a tuple.
func affix(has func(t, part string) bool) stringFunc {
	return func(_ *state, t string, a args) (any, error) {
		v := a.get(0, "", nil)
		parts := []any{v}
		if l, ok := v.(*List); ok && l.tuple {
			parts = l.Items
		}
		for _, p := range parts {
			part, ok := p.(string)
			if !ok {
				return nil, fmt.Errorf("want a str, got a %s", kind(p))
			}
			if has(t, part) {
				return true, nil
			}
		}
		return false, nil
	}
}

func remover(remove func(t, part string) string) stringFunc {
	return func(_ *state, t string, a args) (any, error) {
		part, err := a.text(0, "", nil)
		return remove(t, part), err
	}
}

func every(is func(rune) bool) stringFunc {
	return func(_ *state, t string, _ args) (any, error) {
		return t != "" && strings.IndexFunc(t, func(r rune) bool { return !is(r) }) < 0, nil
	}
}

// cased: at least one letter of the wanted case and none of the other.
func cased(other, wanted func(rune) bool) stringFunc {
	return func(_ *state, t string, _ args) (any, error) {
		return strings.IndexFunc(t, other) < 0 && strings.IndexFunc(t, wanted) >= 0, nil
	}
}

func finder(index func(t, part string) int, must bool) stringFunc {
	return func(_ *state, t string, a args) (any, error) {
		part, err := a.text(0, "sub", nil)
		if err != nil {
			return nil, err
		}
		i := index(t, part)
		if i < 0 && must {
			return nil, errors.New("substring not found")
		}
		if i > 0 {
			i = runes(t[:i])
		}
		return int64(i), nil
	}
}

func title(t string) string {
	word := false
	return strings.Map(func(r rune) rune {
		was := word
		word = unicode.IsLetter(r)
		if was {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, t)
}

func capitalize(t string) string {
	first := true
	return strings.Map(func(r rune) rune {
		if first {
			first = false
			return unicode.ToTitle(r)
		}
		return unicode.ToLower(r)
	}, t)
}

func swapcase(t string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, t)
}

// split is str.split: by a separator, or by runs of white space.
func (s *state) split(t string, a args, right bool) (any, error) {
	most, err := a.count(1, "maxsplit", -1)
	if err != nil {
		return nil, err
	}
	var parts []string
	if v := a.get(0, "sep", nil); v == nil {
		parts = splitSpace(t, most, right)
	} else {
		sep, ok := v.(string)
		if !ok || sep == "" {
			return nil, errors.New("want a separator that is not empty")
		}
		parts = splitBy(t, sep, most, right)
	}
	l := &List{Items: make([]any, len(parts))}
	for i, p := range parts {
		l.Items[i] = p
	}
	return l, s.made(16 * len(parts))
}

func splitBy(t, sep string, most int64, right bool) []string {
	if most < 0 || most > int64(len(t)) {
		return strings.Split(t, sep)
	}
	if !right {
		return strings.SplitN(t, sep, int(most)+1)
	}
	var parts []string
	for ; most > 0; most-- {
		i := strings.LastIndex(t, sep)
		if i < 0 {
			break
		}
		parts = append([]string{t[i+len(sep):]}, parts...)
		t = t[:i]
	}
	return append([]string{t}, parts...)
}

func splitSpace(t string, most int64, right bool) []string {
	all := strings.FieldsFunc(t, isSpace)
	if most < 0 || int64(len(all)) <= most {
		return all
	}
	// The last part keeps its inner space: cut the others off one by one.
	var parts []string
	if right {
		t = strings.TrimRightFunc(t, isSpace)
		for ; most > 0; most-- {
			i := strings.LastIndexFunc(t, isSpace)
			if i < 0 {
				break
			}
			word := strings.TrimLeftFunc(t[i:], isSpace)
			parts = append([]string{word}, parts...)
			t = strings.TrimRightFunc(t[:i], isSpace)
		}
		if t != "" {
			parts = append([]string{t}, parts...)
		}
		return parts
	}
	t = strings.TrimLeftFunc(t, isSpace)
	for ; most > 0; most-- {
		i := strings.IndexFunc(t, isSpace)
		if i < 0 {
			break
		}
		parts = append(parts, t[:i])
		t = strings.TrimLeftFunc(t[i:], isSpace)
	}
	if t != "" {
		parts = append(parts, t)
	}
	return parts
}

func splitLines(s *state, t string, a args) (any, error) {
	keep := truth(a.get(0, "keepends", false))
	l := &List{}
	for len(t) > 0 {
		i := strings.IndexAny(t, "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if i < 0 {
			l.Items = append(l.Items, t)
			break
		}
		end := i + 1
		switch {
		case strings.HasPrefix(t[i:], "\r\n"):
			end = i + 2
		case t[i] >= 0x80:
			end = i + len(string([]rune(t[i : i+min(4, len(t)-i)])[0]))
		}
		if keep {
			l.Items = append(l.Items, t[:end])
		} else {
			l.Items = append(l.Items, t[:i])
		}
		t = t[end:]
	}
	return l, s.made(16 * len(l.Items))
}

// replace is str.replace, bounded before it is made.
func (s *state) replace(t string, a args) (any, error) {
	old, err := a.text(0, "old", nil)
	if err != nil {
		return nil, err
	}
	with, err := a.text(1, "new", nil)
	if err != nil {
		return nil, err
	}
	most, err := a.count(2, "count", -1)
	if err != nil {
		return nil, err
	}
	times := int64(strings.Count(t, old))
	if most >= 0 {
		times = min(times, most)
	}
	if n := times * int64(len(with)); n > int64(s.limit) || s.made(len(t)+int(n)) != nil {
		return nil, errBytes
	}
	return strings.Replace(t, old, with, int(times)), nil
}

// padding is what a text of n characters lacks of a width: half of it and all of it.
func (s *state) padding(width int64, n int, fill string) (half, all string, err error) {
	lack := width - int64(n)
	if lack <= 0 {
		return "", "", nil
	}
	if lack > int64(s.limit) || s.made(int(lack)*len(fill)) != nil {
		return "", "", errBytes
	}
	all = strings.Repeat(fill, int(lack))
	// Of an odd lack Python puts the odd one left when the width is odd.
	return strings.Repeat(fill, int(lack/2+lack&width&1)), all, nil
}

func (s *state) justify(t string, a args) (half, all string, err error) {
	width, err := a.count(0, "width", 0)
	if err != nil {
		return "", "", err
	}
	fill, err := a.text(1, "fillchar", " ")
	if err != nil || runes(fill) != 1 {
		return "", "", errors.New("want one character to fill with")
	}
	return s.padding(width, runes(t), fill)
}
