package tokenizer

// bpe merges the bytes of a word, lowest rank first, leftmost first among equals.
type bpe struct {
	byteID [256]int32 // None for a byte that the vocabulary lacks
	merges map[pair]merge
	// whole is the vocabulary by the bytes that a token stands for; nil unless a
	// word that is itself a token is taken as it is (ignore_merges).
	whole map[string]int32
}

type pair struct{ left, right int32 }

type merge struct{ rank, id int32 }

// symbol is a token of a word in the making: a list in the order of the text.
type symbol struct {
	id         int32 // None once it is part of the symbol before it
	at         int32 // byte of the word where it starts
	prev, next int32 // index in the list; -1 for none
}

// shortWord is the number of symbols up to which looking at every pair beats
// keeping them in a heap. Most words have fewer than ten.
const shortWord = 24

// word encodes one piece.
func (e *encoding) word(p piece, origin func(int) int) {
	m := &e.t.model
	if m.whole != nil {
		if id, ok := m.whole[p.text]; ok {
			e.emit(id, origin(p.at))
			return
		}
	}
	e.symbols = e.symbols[:0]
	for i := range len(p.text) {
		id := m.byteID[p.text[i]]
		if id == None {
			continue // as the tokenizers library does when there is no unknown token
		}
		n := int32(len(e.symbols))
		e.symbols = append(e.symbols, symbol{id: id, at: int32(i), prev: n - 1, next: n + 1})
	}
	if len(e.symbols) == 0 {
		return
	}
	e.symbols[len(e.symbols)-1].next = -1
	if len(e.symbols) <= shortWord {
		m.mergeShort(e.symbols)
	} else {
		m.mergeLong(e.symbols, &e.heap)
	}
	for i := int32(0); i >= 0; i = e.symbols[i].next {
		e.emit(e.symbols[i].id, origin(p.at+int(e.symbols[i].at)))
	}
}

// mergeShort looks for the best pair again after each merge: O(n^2).
func (m *bpe) mergeShort(s []symbol) {
	for {
		best, at := merge{rank: -1}, int32(-1)
		for i := int32(0); s[i].next >= 0; i = s[i].next {
			if c, ok := m.merges[pair{s[i].id, s[s[i].next].id}]; ok && (at < 0 || c.rank < best.rank) {
				best, at = c, i
			}
		}
		if at < 0 {
			return
		}
		join(s, at, best.id)
	}
}

// join makes symbol i and the one after it one.
func join(s []symbol, i, id int32) {
	gone := s[i].next
	s[i].id, s[i].next = id, s[gone].next
	s[gone].id = None
	if s[i].next >= 0 {
		s[s[i].next].prev = i
	}
}

// candidate is a pair of neighbours that can be merged, as it was when found.
type candidate struct {
	merge
	pair
	at int32 // the left one's index
}

// mergeLong keeps the candidates in a heap: O(n log n).
func (m *bpe) mergeLong(s []symbol, h *mergeHeap) {
	h.c = h.c[:0]
	look := func(i int32) {
		if i < 0 || s[i].next < 0 {
			return
		}
		p := pair{s[i].id, s[s[i].next].id}
		if found, ok := m.merges[p]; ok {
			h.push(candidate{found, p, i})
		}
	}
	for i := range s {
		look(int32(i))
	}
	for len(h.c) > 0 {
		c := h.pop()
		if s[c.at].id != c.left || s[c.at].next < 0 || s[s[c.at].next].id != c.right {
			continue // one of the two has been merged since
		}
		join(s, c.at, c.id)
		look(s[c.at].prev)
		look(c.at)
	}
}

// mergeHeap is a binary heap, lowest rank first and leftmost among equals.
type mergeHeap struct{ c []candidate }

func (h *mergeHeap) less(i, j int) bool {
	a, b := &h.c[i], &h.c[j]
	return a.rank < b.rank || a.rank == b.rank && a.at < b.at
}

func (h *mergeHeap) push(c candidate) {
	h.c = append(h.c, c)
	for i := len(h.c) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			return
		}
		h.c[i], h.c[up] = h.c[up], h.c[i]
		i = up
	}
}

func (h *mergeHeap) pop() candidate {
	top, last := h.c[0], len(h.c)-1
	h.c[0] = h.c[last]
	h.c = h.c[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			return top
		}
		if down+1 < last && h.less(down+1, down) {
			down++
		}
		if !h.less(down, i) {
			return top
		}
		h.c[i], h.c[down] = h.c[down], h.c[i]
		i = down
	}
}
