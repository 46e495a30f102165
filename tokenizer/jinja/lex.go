package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// tokenKind is what a token of the source is.
type tokenKind uint8

const (
	textToken     tokenKind = iota // outside tags
	openPrint                      // {{
	closePrint                     // }}
	openBlock                      // {%
	closeBlock                     // %}
	nameToken                      // an identifier or keyword
	stringToken                    // text holds its value
	numberToken                    // value holds it
	operatorToken                  // text is the operator
	endToken
)

type token struct {
	kind  tokenKind
	text  string
	value any
	line  int
}

func (t token) String() string {
	switch t.kind {
	case endToken:
		return "end of template"
	case textToken:
		return "text"
	case openPrint, closePrint, openBlock, closeBlock, operatorToken:
		return strconv.Quote(t.text)
	}
	return strconv.Quote(clip(t.text))
}

func clip(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "..."
	}
	return s
}

// lexer cuts a source into tokens as jinja2's lexer does with trim_blocks and
// lstrip_blocks on.
type lexer struct {
	src    string
	pos    int
	line   int
	starts bool // what came before pos ended a line
	tokens []token
}

func lex(source string) ([]token, error) {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	source = strings.TrimSuffix(source, "\n") // keep_trailing_newline is off
	l := &lexer{src: source, line: 1, starts: true}
	for l.pos < len(l.src) {
		if err := l.outside(); err != nil {
			return nil, &lineError{l.line, err}
		}
	}
	return append(l.tokens, token{kind: endToken, line: l.line}), nil
}

func (l *lexer) emit(kind tokenKind, text string, value any) {
	l.tokens = append(l.tokens, token{kind, text, value, l.line})
}

// skip moves over n bytes of source.
func (l *lexer) skip(n int) {
	part := l.src[l.pos : l.pos+n]
	l.line += strings.Count(part, "\n")
	if n > 0 {
		l.starts = part[n-1] == '\n'
	}
	l.pos += n
}

// outside takes text up to the next tag, and the tag.
func (l *lexer) outside() error {
	rest := l.src[l.pos:]
	i := 0
	for {
		k := strings.IndexByte(rest[i:], '{')
		if k < 0 || i+k+1 >= len(rest) {
			l.text(rest)
			l.skip(len(rest))
			return nil
		}
		i += k
		if c := rest[i+1]; c == '{' || c == '%' || c == '#' {
			break
		}
		i++
	}
	tag := rest[i : i+2]
	sign := byte(0)
	if len(rest) > i+2 && (rest[i+2] == '-' || rest[i+2] == '+') && (tag != "{{" || rest[i+2] == '-') {
		sign = rest[i+2]
	}
	l.text(l.strip(rest[:i], sign, tag != "{{"))
	l.skip(i)
	open := 2
	if sign != 0 {
		open = 3
	}
	switch tag {
	case "{#":
		return l.comment(open)
	case "{%":
		if n := matchRaw(l.src[l.pos+open:], "raw"); n > 0 {
			return l.raw(open + n)
		}
	}
	l.emit(map[string]tokenKind{"{{": openPrint, "{%": openBlock}[tag], tag, nil)
	l.skip(open)
	return l.inside(tag)
}

func (l *lexer) text(s string) {
	if s != "" {
		l.emit(textToken, s, nil)
	}
}

// strip removes white space before a tag: all of it for "-", and of a line that
// holds nothing else for a block or comment without "+".
func (l *lexer) strip(text string, sign byte, block bool) string {
	if sign == '-' {
		return strings.TrimRightFunc(text, isSpace)
	}
	if sign == '+' || !block {
		return text
	}
	start := strings.LastIndexByte(text, '\n') + 1
	if (start > 0 || l.starts) && strings.TrimFunc(text[start:], isSpace) == "" {
		return text[:start]
	}
	return text
}

// after skips what a tag's end swallows: all white space after "-", one line end
// after a block or a comment without "+".
func (l *lexer) after(sign byte, block bool) {
	rest := l.src[l.pos:]
	switch {
	case sign == '-':
		l.skip(len(rest) - len(strings.TrimLeftFunc(rest, isSpace)))
	case block && sign != '+' && strings.HasPrefix(rest, "\n"):
		l.skip(1)
	}
}

// ending skips an end mark with an optional sign before it.
func (l *lexer) ending(at int, mark string, block bool) {
	sign := byte(0)
	if c := l.src[at-1]; c == '-' || c == '+' {
		sign = c
	}
	l.skip(at + len(mark) - l.pos)
	l.after(sign, block)
}

func (l *lexer) comment(open int) error {
	end := strings.Index(l.src[l.pos+open:], "#}")
	if end < 0 {
		return fmt.Errorf("comment without an end: want #}")
	}
	at := l.pos + open + end
	if end == 0 { // {#-#}: the sign belongs to the beginning
		l.skip(open + 2)
		l.after(0, true)
		return nil
	}
	l.ending(at, "#}", true)
	return nil
}

// matchRaw is the length of "  word  -%}" at the start of s, 0 when it is not there.
func matchRaw(s, word string) int {
	t := strings.TrimLeftFunc(s, isSpace)
	if !strings.HasPrefix(t, word) {
		return 0
	}
	t = strings.TrimLeftFunc(t[len(word):], isSpace)
	if word == "raw" && strings.HasPrefix(t, "-%}") {
		return len(s) - len(strings.TrimLeftFunc(t[3:], isSpace))
	}
	if word != "raw" && (strings.HasPrefix(t, "-%}") || strings.HasPrefix(t, "+%}")) {
		return len(s) - len(t) + 3
	}
	if strings.HasPrefix(t, "%}") {
		return len(s) - len(t) + 2
	}
	return 0
}

// raw takes everything up to {% endraw %} as text.
func (l *lexer) raw(open int) error {
	l.skip(open)
	for i := l.pos; ; i++ {
		k := strings.Index(l.src[i:], "{%")
		if k < 0 {
			return fmt.Errorf("{%% raw %%} without {%% endraw %%}")
		}
		i += k
		sign, begin := byte(0), i+2
		if begin < len(l.src) && (l.src[begin] == '-' || l.src[begin] == '+') {
			sign = l.src[begin]
			begin++
		}
		if n := matchRaw(l.src[begin:], "endraw"); n > 0 {
			l.text(l.strip(l.src[l.pos:i], sign, true))
			l.ending(begin+n-2, "%}", true)
			return nil
		}
	}
}

var operators = []string{ // longest first
	"**", "//", "==", "!=", ">=", "<=",
	"+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";",
}

var closers = map[string]string{"(": ")", "[": "]", "{": "}"}

// inside takes the tokens of a tag up to its end.
func (l *lexer) inside(tag string) error {
	end, kind := "%}", closeBlock
	if tag == "{{" {
		end, kind = "}}", closePrint
	}
	var open []string
	for {
		rest := l.src[l.pos:]
		trimmed := strings.TrimLeftFunc(rest, isSpace)
		l.skip(len(rest) - len(trimmed))
		if rest = trimmed; rest == "" {
			return fmt.Errorf("%s without %s", tag, end)
		}
		if len(open) == 0 {
			n := 0
			if rest[0] == '-' || rest[0] == '+' && kind == closeBlock {
				n = 1
			}
			if strings.HasPrefix(rest[n:], end) {
				l.emit(kind, end, nil)
				l.skip(n + 2)
				sign := byte(0)
				if n > 0 {
					sign = rest[0]
				}
				l.after(sign, kind == closeBlock)
				return nil
			}
		}
		var err error
		if open, err = l.token(rest, open); err != nil {
			return err
		}
	}
}

// token takes one token of an expression; open are the brackets not yet closed.
func (l *lexer) token(rest string, open []string) ([]string, error) {
	c, _ := utf8.DecodeRuneInString(rest)
	switch {
	case c == '"' || c == '\'':
		return open, l.string(rest)
	case c >= '0' && c <= '9':
		return open, l.number(rest)
	case c == '_' || unicode.IsLetter(c):
		n := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) })
		if n < 0 {
			n = len(rest)
		}
		l.emit(nameToken, rest[:n], nil)
		l.skip(n)
		return open, nil
	}
	for _, op := range operators {
		if !strings.HasPrefix(rest, op) {
			continue
		}
		if want, ok := closers[op]; ok {
			if len(open) >= maxNesting {
				return open, errDeep
			}
			open = append(open, want)
		}
		if op == ")" || op == "]" || op == "}" {
			if len(open) == 0 || open[len(open)-1] != op {
				return open, fmt.Errorf("%q closes nothing", op)
			}
			open = open[:len(open)-1]
		}
		l.emit(operatorToken, op, nil)
		l.skip(len(op))
		return open, nil
	}
	return open, fmt.Errorf("unexpected character %q", c)
}

func (l *lexer) string(rest string) error {
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case rest[0]:
			value, err := unescape(rest[1:i])
			if err != nil {
				return err
			}
			l.emit(stringToken, value, nil)
			l.skip(i + 1)
			return nil
		}
	}
	return fmt.Errorf("string without an end")
}

// unescape reads the escapes of a Python string; an unknown one is kept as it stands.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	simple := map[byte]string{
		'n': "\n", 't': "\t", 'r': "\r", '\\': `\`, '\'': "'", '"': `"`, 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': "",
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if text, ok := simple[s[i]]; ok {
			b.WriteString(text)
			continue
		}
		digits, base := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]], 16
		from := i + 1
		if s[i] >= '0' && s[i] <= '7' {
			for base, from = 8, i; digits < 3 && from+digits < len(s) && s[from+digits] >= '0' && s[from+digits] <= '7'; {
				digits++
			}
		}
		if digits == 0 {
			b.WriteByte('\\')
			b.WriteByte(s[i])
			continue
		}
		if from+digits > len(s) {
			return "", fmt.Errorf("string escape \\%s is cut off", s[i:])
		}
		r, err := strconv.ParseUint(s[from:from+digits], base, 32)
		if err != nil || !utf8.ValidRune(rune(r)) {
			return "", fmt.Errorf("string escape \\%s is no character", s[i:from+digits])
		}
		b.WriteRune(rune(r))
		i = from + digits - 1
	}
	return b.String(), nil
}

func (l *lexer) number(rest string) error {
	n := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && r != '.' && !isAlnum(r) })
	if n < 0 {
		n = len(rest)
	}
	word := rest[:n]
	if k := strings.IndexAny(word, "eE"); k >= 0 && k == n-1 && n < len(rest) && (rest[n] == '+' || rest[n] == '-') && !strings.HasPrefix(word, "0x") {
		m := n + 1
		for m < len(rest) && rest[m] >= '0' && rest[m] <= '9' {
			m++
		}
		word = rest[:m]
	}
	// 1.real is an attribute of 1, and x.0.1 is lexed as x . 0 . 1 elsewhere.
	if k := strings.IndexByte(word, '.'); k >= 0 && (k+1 == len(word) || word[k+1] < '0' || word[k+1] > '9') {
		word = word[:k]
	}
	var value any
	i, err := strconv.ParseInt(word, 0, 64)
	value = i
	if err != nil {
		f, ferr := strconv.ParseFloat(strings.ReplaceAll(word, "_", ""), 64)
		if ferr != nil || !strings.ContainsAny(word, ".eE") {
			return fmt.Errorf("number %s: %w", clip(word), err)
		}
		value = f
	}
	l.emit(numberToken, word, value)
	l.skip(len(word))
	return nil
}

func isAlnum(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}
