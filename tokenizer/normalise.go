package tokenizer

import (
	"sort"

	"golang.org/x/text/unicode/norm"
)

// normaliser applies Unicode normal forms in turn. Its zero value changes nothing.
type normaliser struct{ forms []norm.Form }

// apply returns the normal form of s and a function from a byte of it to the
// byte of s it came from; nil when nothing changed, or when offsets are not wanted.
func (n normaliser) apply(s string, offsets bool) (string, func(int) int) {
	var origin func(int) int
	for _, f := range n.forms {
		if f.IsNormalString(s) {
			continue
		}
		if !offsets {
			s = f.String(s)
			continue
		}
		changed, here := normaliseMapped(f, s)
		before := origin
		s, origin = changed, func(i int) int {
			if i = here(i); before != nil {
				i = before(i)
			}
			return i
		}
	}
	return s, origin
}

// normaliseMapped also maps each byte of the result to the start of the segment
// (characters that are normalised together) it came from; unchanged segments byte by byte.
func normaliseMapped(f norm.Form, s string) (string, func(int) int) {
	var it norm.Iter
	it.InitString(f, s)
	var out []byte
	var to, from []int // where segments start in the result and in s
	for !it.Done() {
		to, from = append(to, len(out)), append(from, it.Pos())
		out = append(out, it.Next()...)
	}
	return string(out), func(i int) int {
		k := sort.SearchInts(to, i+1) - 1
		if k < 0 {
			return 0
		}
		if k+1 == len(to) && i >= len(out) {
			return len(s)
		}
		return from[k]
	}
}
