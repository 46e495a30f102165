package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// definitions notes what the figures are.
func definitions(r *report, o options) {
	r.note("Figures: GB/s (1e9 bytes) of the full buffer, ranks*n bytes, over the time of the slowest rank, the same for every operation and contender; "+
		"up to %s the time itself in µs. Median (lowest-highest) of %d rounds, every contender in turn; in a round an operation is repeated for %s, after one that does not count. "+
		"A stream is n bytes one way, one process to another, and one byte back.", sizeName(smallBytes), o.rounds, o.least)
	r.note("All-gather is in place; reduce-scatter and all-reduce sum f32, ours in rank order. The first round checks the results.")
}

// group is the cells of one table: a place, a number of ranks, collectives or streams.
type group struct {
	place  string
	ranks  int
	stream bool
}

func groupOf(c *cell) group { return group{c.Place, c.Ranks, c.Operation == opStream} }

func (g group) String() string {
	if g.stream {
		return g.place + ", one stream"
	}
	return fmt.Sprintf("%s, %d ranks", g.place, g.ranks)
}

// inOrder are a list's values without repetition, in the order in which they come first.
func inOrder[T comparable](cells []*cell, of func(*cell) T) (out []T) {
	for _, c := range cells {
		if v := of(c); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

func where(cells []*cell, keep func(*cell) bool) (out []*cell) {
	for _, c := range cells {
		if keep(c) {
			out = append(out, c)
		}
	}
	return out
}

// writeTables writes the notes, and one table a group: a row for each operation and size, a column for each contender.
func writeTables(out io.Writer, r *report) error {
	var b strings.Builder
	for _, n := range r.Notes {
		fmt.Fprintln(&b, n)
	}
	for _, g := range inOrder(r.Cells, groupOf) {
		cells := where(r.Cells, func(c *cell) bool { return groupOf(c) == g })
		names := inOrder(cells, func(c *cell) string { return c.Contender })
		fmt.Fprintf(&b, "\n%s:\n\n| operation | n | %s |\n|%s\n", g, strings.Join(names, " | "), strings.Repeat("---|", len(names)+2))
		type line struct {
			op    string
			bytes int64
		}
		for _, l := range inOrder(cells, func(c *cell) line { return line{c.Operation, c.Bytes} }) {
			fmt.Fprintf(&b, "| %s | %s |", l.op, sizeName(l.bytes))
			for _, name := range names {
				text := "-"
				for _, c := range cells {
					if c.Operation == l.op && c.Bytes == l.bytes && c.Contender == name {
						text = c.String()
					}
				}
				fmt.Fprintf(&b, " %s |", text)
			}
			fmt.Fprintln(&b)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
