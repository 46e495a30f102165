package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The plot, in SVG's units: a panel for each operation at each place and number of ranks.
const (
	panelWidth, panelHeight = 300, 210
	left, right, top        = 44, 12, 24 // of a panel, around what is drawn
	bottom                  = 30
	legendColumn, legendRow = 140, 16
)

var colors = []string{"#1f77b4", "#4a9bd9", "#7fb8e6", "#b3d4ef", "#d62728", "#2ca02c", "#98c379", "#7f7f7f", "#9467bd", "#c5b0d5", "#8c564b", "#c49c94", "#e377c2"}

// panel is one diagram.
type panel struct {
	group
	operation string
}

func panelOf(c *cell) panel { return panel{groupOf(c), c.Operation} }

func (p panel) title() string {
	if p.stream {
		return p.group.String()
	}
	return p.operation + ", " + p.group.String()
}

// scale maps the logarithms of a range to another range.
type scale struct{ from, to, low, high float64 }

func (s scale) at(x float64) float64 {
	if s.to <= s.from {
		return (s.low + s.high) / 2
	}
	return s.low + (math.Log10(x)-math.Log10(s.from))/(math.Log10(s.to)-math.Log10(s.from))*(s.high-s.low)
}

// decades is the least range of whole powers of ten that holds the rates.
func decades(cells []*cell) (low, high float64) {
	low, high = math.Inf(1), 0
	for _, c := range cells {
		mid, _, _ := c.rate()
		low, high = min(low, mid), max(high, mid)
	}
	low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	if low == high {
		high *= 10
	}
	return low, high
}

// plot draws GB/s over bytes per rank, both axes logarithmic, with a line for each contender and a bar from its lowest to
// its highest round.
func plot(cells []*cell) []byte {
	cells = where(cells, func(c *cell) bool { return len(c.Seconds) > 0 })
	names := inOrder(cells, func(c *cell) string { return c.Contender })
	panels := inOrder(cells, panelOf)
	columns := min(max(len(panels), 1), 3)
	perRow := max(columns*panelWidth/legendColumn, 1)
	legend := (len(names) + perRow - 1) / perRow * legendRow
	rows := (len(panels) + columns - 1) / columns
	width, height := columns*panelWidth, rows*panelHeight+legend+10
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="10">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i%columns*panelWidth, i/columns*panelHeight)
		drawPanel(&b, p, where(cells, func(c *cell) bool { return panelOf(c) == p }), names)
		fmt.Fprintln(&b, "</g>")
	}
	for i, n := range names {
		x, y := i%perRow*legendColumn+left, rows*panelHeight+i/perRow*legendRow+8
		fmt.Fprintf(&b, `<path d="M%d %dh18" stroke="%s" stroke-width="2"/><text x="%d" y="%d">%s</text>`+"\n", x, y, color(names, n), x+22, y+4, html.EscapeString(n))
	}
	fmt.Fprintln(&b, "</svg>")
	return b.Bytes()
}

func color(names []string, n string) string { return colors[slices.Index(names, n)%len(colors)] }

func drawPanel(b *bytes.Buffer, p panel, cells []*cell, names []string) {
	sizes := inOrder(cells, func(c *cell) int64 { return c.Bytes })
	x := scale{float64(slices.Min(sizes)), float64(slices.Max(sizes)), left, panelWidth - right}
	low, high := decades(cells)
	y := scale{low, high, panelHeight - bottom, top}
	fmt.Fprintf(b, `<text x="%d" y="14" font-size="11" font-weight="bold">%s</text><text x="%d" y="14" text-anchor="end">GB/s</text>`+"\n",
		left, html.EscapeString(p.title()), panelWidth-right)
	for v := low; v <= high*1.001; v *= 10 {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n", left, y.at(v), panelWidth-right, left-4, y.at(v)+3, v)
	}
	last := math.Inf(-1)
	for _, s := range slices.Sorted(slices.Values(sizes)) {
		at := x.at(float64(s))
		fmt.Fprintf(b, `<path d="M%.1f %dV%d" stroke="#eee"/>`, at, top, panelHeight-bottom)
		if at-last > 40 {
			fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, at, panelHeight-bottom+12, strings.ReplaceAll(sizeName(s), " ", ""))
			last = at
		}
		fmt.Fprintln(b)
	}
	for _, n := range names {
		var line, bars strings.Builder
		mine := where(cells, func(c *cell) bool { return c.Contender == n })
		slices.SortFunc(mine, func(c, d *cell) int { return int(c.Bytes - d.Bytes) })
		for i, c := range mine {
			mid, least, most := c.rate()
			at := x.at(float64(c.Bytes))
			fmt.Fprintf(&line, "%c%.1f %.1f", "ML"[min(i, 1)], at, y.at(mid))
			fmt.Fprintf(&bars, "M%.1f %.1fV%.1f", at, y.at(min(max(least, low), high)), y.at(min(max(most, low), high)))
		}
		if len(mine) > 0 {
			fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.6"/><path d="%s" stroke="%s" stroke-width="3" opacity="0.4"/>`+"\n",
				line.String(), color(names, n), bars.String(), color(names, n))
		}
	}
}
