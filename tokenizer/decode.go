package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// DecodeOptions choose how ids become text.
type DecodeOptions struct {
	SkipSpecial bool // leave special tokens out
}

// Decode returns the text of ids. Bytes that are not UTF-8 become U+FFFD, as many
// as the Unicode standard's best practice gives; ids outside the vocabulary are left out.
func (t *Tokenizer) Decode(ids []int32, o DecodeOptions) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(t.piece(id, o))
	}
	return replaceInvalid(b.String())
}

// piece is the bytes of one id.
func (t *Tokenizer) piece(id int32, o DecodeOptions) string {
	if id < 0 || int(id) >= len(t.bytes) || o.SkipSpecial && t.isSpecial[id] {
		return ""
	}
	return t.bytes[id]
}

// Stream decodes ids one by one, as a model makes them: it holds back the bytes
// of a character whose other bytes have not come.
type Stream struct {
	t    *Tokenizer
	o    DecodeOptions
	held []byte
}

// Stream starts a text.
func (t *Tokenizer) Stream(o DecodeOptions) *Stream { return &Stream{t: t, o: o} }

// Push adds an id and returns the text that is now certain, which may be "".
func (s *Stream) Push(id int32) string {
	s.held = append(s.held, s.t.piece(id, s.o)...)
	n := len(s.held) - incomplete(s.held)
	out := replaceInvalid(string(s.held[:n]))
	s.held = append(s.held[:0], s.held[n:]...)
	return out
}

// Flush ends the text: what was held back becomes U+FFFD. All that Push and Flush
// returned is what Decode gives for the same ids.
func (s *Stream) Flush() string {
	out := replaceInvalid(string(s.held))
	s.held = s.held[:0]
	return out
}

// incomplete is how many bytes at the end of b begin a character that more bytes
// could complete: 0 to 3.
func incomplete(b []byte) int {
	for n := 1; n <= min(utf8.UTFMax-1, len(b)); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if subpart(tail) == n && !utf8.FullRune(tail) {
				return n
			}
			return 0
		}
	}
	return 0
}

// replaceInvalid puts one U+FFFD for each maximal subpart of a character.
func replaceInvalid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			n = subpart([]byte(s[:min(len(s), utf8.UTFMax)]))
			out.WriteRune(utf8.RuneError)
		} else {
			out.WriteString(s[:n])
		}
		s = s[n:]
	}
	return out.String()
}

// subpart is how many bytes at the start of b, at least 1, are the beginning of
// some character. b does not begin with a whole one.
func subpart(b []byte) int {
	n := 1
	for n < len(b) && !utf8.FullRune(b[:n]) {
		n++
	}
	// FullRune is true as soon as b[:n] cannot begin a character: then its last
	// byte is not part of it.
	if n > 1 && utf8.FullRune(b[:n]) {
		n--
	}
	return n
}
