package tokenizer

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a token that is looked for in the text before anything is split,
// as tokenizer.json has it.
type AddedToken struct {
	ID      int32  `json:"id"`
	Content string `json:"content"`
	// SingleWord: not inside a word. LStrip, RStrip: with the white space before
	// or after it. Normalized: looked for in the normalised text.
	SingleWord bool `json:"single_word"`
	LStrip     bool `json:"lstrip"`
	RStrip     bool `json:"rstrip"`
	Normalized bool `json:"normalized"`
	Special    bool `json:"special"`
}

// maxAddedBytes bounds an added token, and with it the time that looking for one takes.
const maxAddedBytes = 4096

// addedSet finds added tokens, leftmost first and longest among those that start
// together. It is a trie whose nodes are rows of a map.
type addedSet struct {
	next  map[edge]int32 // node and byte to node; node 0 is the root
	token []*AddedToken  // what ends at a node
	first [256]bool      // bytes that begin a token
}

type edge struct {
	node int32
	by   byte
}

func (a *addedSet) add(t AddedToken, content string) error {
	if content == "" || len(content) > maxAddedBytes {
		return fmt.Errorf("added token %d: %d bytes: want 1 to %d", t.ID, len(content), maxAddedBytes)
	}
	if a.next == nil {
		a.next, a.token = map[edge]int32{}, make([]*AddedToken, 1)
	}
	a.first[content[0]] = true
	node := int32(0)
	for i := range len(content) {
		e := edge{node, content[i]}
		to, ok := a.next[e]
		if !ok {
			to = int32(len(a.token))
			a.next[e] = to
			a.token = append(a.token, nil)
		}
		node = to
	}
	a.token[node] = &t
	return nil
}

// longest is the longest token at the start of s.
func (a *addedSet) longest(s string) (found *AddedToken, n int) {
	node := int32(0)
	for i := range len(s) {
		to, ok := a.next[edge{node, s[i]}]
		if !ok {
			break
		}
		if node = to; a.token[node] != nil {
			found, n = a.token[node], i+1
		}
	}
	return found, n
}

// cut calls section for the text between added tokens, with where it starts, and
// token for each of them.
func (a *addedSet) cut(s string, section func(s string, at int) error, token func(id int32, at int)) error {
	from := 0
	for i := 0; a.next != nil && i < len(s); {
		if !a.first[s[i]] {
			i++
			continue
		}
		t, n := a.longest(s[i:])
		if t == nil {
			i++
			continue
		}
		start, end := i, i+n
		i = end
		if t.SingleWord && (wordBefore(s[:start]) || wordAfter(s[end:])) {
			continue
		}
		if t.LStrip {
			start = max(from, trimSpaceRight(s[:start]))
		}
		if t.RStrip {
			end += spaceLeft(s[end:])
			i = end
		}
		if from < start {
			if err := section(s[from:start], from); err != nil {
				return err
			}
		}
		token(t.ID, start)
		from = end
	}
	if from < len(s) {
		return section(s[from:], from)
	}
	return nil
}

// isWord is \w: letters, marks, decimal digits, connectors and joiners.
func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.Is(unicode.M, r) || unicode.Is(unicode.Nd, r) || unicode.Is(unicode.Nl, r) ||
		unicode.Is(unicode.Pc, r) || unicode.Is(unicode.Other_Alphabetic, r) || unicode.Is(unicode.Join_Control, r)
}

func wordBefore(s string) bool { r, n := utf8.DecodeLastRuneInString(s); return n > 0 && isWord(r) }
func wordAfter(s string) bool  { r, n := utf8.DecodeRuneInString(s); return n > 0 && isWord(r) }

// trimSpaceRight is the length of s without the white space at its end.
func trimSpaceRight(s string) int {
	for len(s) > 0 {
		r, n := utf8.DecodeLastRuneInString(s)
		if !unicode.IsSpace(r) {
			break
		}
		s = s[:len(s)-n]
	}
	return len(s)
}

// spaceLeft is the length of the white space at the start of s.
func spaceLeft(s string) int {
	for i, r := range s {
		if !unicode.IsSpace(r) {
			return i
		}
	}
	return len(s)
}
