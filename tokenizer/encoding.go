package tokenizer

import "strings"

// encoding is the working memory of one Encode: kept between calls, never shared.
type encoding struct {
	t       *Tokenizer
	offsets bool
	ids     []int32
	starts  []int

	pieces, next []piece
	symbols      []symbol
	heap         mergeHeap
}

// piece is a part of a normalised section; at is where it starts in the
// section, or -1 for a piece that begins with an added space at the section's start.
type piece struct {
	text string
	at   int
}

func (e *encoding) emit(id int32, start int) {
	e.ids = append(e.ids, id)
	if e.offsets {
		e.starts = append(e.starts, start)
	}
}

// text encodes what lies between the added tokens that are looked for first.
func (e *encoding) text(text string) error {
	return e.t.raw.cut(text, func(section string, at int) error {
		return e.section(section, at)
	}, e.emit)
}

// section normalises a part of the text and looks for the other added tokens.
func (e *encoding) section(text string, base int) error {
	normal, origin := e.t.normalise.apply(text, e.offsets)
	origin = shift(origin, base)
	return e.t.norm.cut(normal, func(section string, at int) error {
		return e.plain(section, func(i int) int { return origin(at + max(i, 0)) })
	}, func(id int32, at int) { e.emit(id, origin(at)) })
}

func shift(origin func(int) int, base int) func(int) int {
	if origin == nil {
		return func(i int) int { return base + i }
	}
	return func(i int) int { return base + origin(i) }
}

// plain splits a section without added tokens and merges each piece.
func (e *encoding) plain(text string, origin func(int) int) error {
	if text == "" {
		return nil
	}
	e.pieces = append(e.pieces[:0], piece{text, 0})
	for _, s := range e.t.split {
		e.next = e.next[:0]
		for _, p := range e.pieces {
			var err error
			if e.next, err = s.split(p, e.next); err != nil {
				return err
			}
		}
		e.pieces, e.next = e.next, e.pieces
	}
	for _, p := range e.pieces {
		e.word(p, origin)
	}
	return nil
}

// splitter cuts a piece and appends the parts to out.
type splitter interface {
	split(p piece, out []piece) ([]piece, error)
}

// matchSplitter cuts by a function that gives the length of the first part of
// what is left, at least 1.
type matchSplitter func(s string) int

func (m matchSplitter) split(p piece, out []piece) ([]piece, error) {
	for i := 0; i < len(p.text); {
		n := m(p.text[i:])
		out = append(out, p.sub(i, i+n))
		i += n
	}
	return out, nil
}

func (p piece) sub(i, j int) piece { return piece{p.text[i:j], p.at + i} }

// prefixSpace puts a space before a piece that does not begin with one.
type prefixSpace struct{}

func (prefixSpace) split(p piece, out []piece) ([]piece, error) {
	if !strings.HasPrefix(p.text, " ") {
		p = piece{" " + p.text, p.at - 1}
	}
	return append(out, p), nil
}
