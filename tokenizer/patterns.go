package tokenizer

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// The split patterns that have a matcher of their own, as the files spell them.
// A matcher is some fifty times as fast as the regular expression, and linear.
const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// class is what the patterns tell characters apart by.
type class uint8

const (
	other class = iota
	letter
	number
	space
)

// classify reads the first character of s. A byte that is not UTF-8 is `other`.
func classify(s string) (class, rune, int) {
	if len(s) == 0 {
		return other, 0, 0
	}
	if c := s[0]; c < utf8.RuneSelf {
		switch {
		case c|0x20 >= 'a' && c|0x20 <= 'z':
			return letter, rune(c), 1
		case c >= '0' && c <= '9':
			return number, rune(c), 1
		case c == ' ' || c >= '\t' && c <= '\r':
			return space, rune(c), 1
		}
		return other, rune(c), 1
	}
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case unicode.IsLetter(r):
		return letter, r, n
	case unicode.IsNumber(r):
		return number, r, n
	case unicode.IsSpace(r):
		return space, r, n
	}
	return other, r, n
}

// run is the length of the characters of class c at the start of s, at most limit of them.
func run(s string, c class, limit int) int {
	i := 0
	for ; limit > 0 && i < len(s); limit-- {
		k, _, n := classify(s[i:])
		if k != c {
			break
		}
		i += n
	}
	return i
}

const unlimited = int(^uint(0) >> 1)

// spaces matches \s+(?!\S)|\s+ at a space: all spaces up to the text's end, else
// all but the last, else the one.
func spaces(s string) int {
	last, end := 0, 0
	for end < len(s) {
		k, _, n := classify(s[end:])
		if k != space {
			break
		}
		last, end = end, end+n
	}
	if end == len(s) || last == 0 {
		return end
	}
	return last
}

// matchGPT2 is gpt2Pattern.
func matchGPT2(s string) int {
	if s[0] == '\'' {
		for _, c := range [...]string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
			if strings.HasPrefix(s, c) {
				return len(c)
			}
		}
	}
	skip := 0
	if s[0] == ' ' {
		skip = 1
	}
	k, _, n := classify(s[skip:])
	if n == 0 || k == space {
		return spaces(s)
	}
	return skip + run(s[skip:], k, unlimited)
}

// matchCased is llama3Pattern and, for one digit at a time, qwen2Pattern.
func matchCased(digits int) matchSplitter {
	return func(s string) int {
		if n := contraction(s); n > 0 {
			return n
		}
		k, r, n := classify(s)
		switch k {
		case letter:
			return run(s, letter, unlimited)
		case number:
			return run(s, number, digits)
		}
		if r != '\r' && r != '\n' { // one character, then letters
			if m := run(s[n:], letter, unlimited); m > 0 {
				return n + m
			}
		}
		skip := 0
		if s[0] == ' ' {
			skip = 1
		}
		if m := run(s[skip:], other, unlimited); m > 0 {
			m += skip
			for m < len(s) && (s[m] == '\r' || s[m] == '\n') {
				m++
			}
			return m
		}
		if m := throughNewline(s); m > 0 {
			return m
		}
		return spaces(s)
	}
}

// throughNewline matches \s*[\r\n]+: the spaces up to the last line end among them.
func throughNewline(s string) int {
	last := 0
	for i := 0; i < len(s); {
		k, r, n := classify(s[i:])
		if k != space {
			break
		}
		i += n
		if r == '\r' || r == '\n' {
			last = i
		}
	}
	return last
}

// contraction matches (?i:'s|'t|'re|'ve|'m|'ll|'d). Case folding is Unicode's:
// the long s, U+017F, is an s.
func contraction(s string) int {
	if s[0] != '\'' || len(s) < 2 {
		return 0
	}
	switch s[1] | 0x20 {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if len(s) > 2 && s[2]|0x20 == 'e' {
			return 3
		}
	case 'l':
		if len(s) > 2 && s[2]|0x20 == 'l' {
			return 3
		}
	}
	if strings.HasPrefix(s[1:], "\u017f") {
		return 1 + len("\u017f")
	}
	return 0
}

// digits cuts numbers out, one by one or run by run.
type digits struct{ single bool }

func (d digits) split(p piece, out []piece) ([]piece, error) {
	limit := unlimited
	if d.single {
		limit = 1
	}
	from := 0
	for i := 0; i < len(p.text); {
		k, _, n := classify(p.text[i:])
		if k != number {
			i += n
			continue
		}
		if i > from {
			out = append(out, p.sub(from, i))
		}
		n = run(p.text[i:], number, limit)
		out = append(out, p.sub(i, i+n))
		i += n
		from = i
	}
	if from < len(p.text) {
		out = append(out, p.sub(from, len(p.text)))
	}
	return out, nil
}

// Bounds on a pattern from a file: what a match may take before Encode fails.
const (
	matchTimeout   = 10 * time.Second
	matchStack     = 1 << 22
	maxPatternSize = 1 << 14
)

// regexSplitter cuts by any other pattern. Where it matches and where it does
// not become pieces; the flags leave one kind out.
type regexSplitter struct {
	re                      *regexp2.Regexp
	dropMatches, dropOthers bool
}

func newRegexSplitter(pattern string, dropMatches, dropOthers bool) (splitter, error) {
	if len(pattern) > maxPatternSize {
		return nil, fmt.Errorf("split pattern of %d bytes: want at most %d", len(pattern), maxPatternSize)
	}
	re, err := regexp2.Compile(pattern, regexp2.None, regexp2.OptionMaxBacktrackingStackSize(matchStack))
	if err != nil {
		return nil, fmt.Errorf("split pattern %q: %w", pattern, err)
	}
	re.MatchTimeout = matchTimeout
	return regexSplitter{re, dropMatches, dropOthers}, nil
}

func (r regexSplitter) split(p piece, out []piece) ([]piece, error) {
	found, err := r.re.FindAllStringIndex(p.text, -1)
	if err != nil {
		return nil, fmt.Errorf("split pattern %q on %d bytes of text: %w", r.re.String(), len(p.text), err)
	}
	add := func(i, j int, drop bool) {
		if i < j && !drop {
			out = append(out, p.sub(i, j))
		}
	}
	from := 0
	for _, m := range found {
		add(from, m[0], r.dropOthers)
		add(m[0], m[1], r.dropMatches)
		from = m[1]
	}
	add(from, len(p.text), r.dropOthers)
	return out, nil
}
