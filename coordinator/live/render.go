package live

import (
	"fmt"
	"math"
	"sort"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/coordinator"
	"github.com/zerofleet/zerofleet/membership"
)

const (
	keptEvents = 3
	curveRows  = 6
	minWidth   = 40
	maxWidth   = 110
)

// screen is all that the view knows.
type screen struct {
	width       int
	now         time.Time
	status      *coordinator.Status
	newest      *membership.StepLine
	losses      []float64
	evaluations []*membership.EvaluationLine
	events      []coordinator.Event
	first, last struct {
		step uint64
		at   time.Time
	}
}

func (s *screen) step(l *membership.StepLine, at time.Time) {
	s.newest, s.now = l, at
	s.losses = append(s.losses, l.GetLoss())
	if s.first.at.IsZero() {
		s.first.step, s.first.at = l.GetStep(), at
	}
	s.last.step, s.last.at = l.GetStep(), at
}

func (s *screen) event(e coordinator.Event) {
	s.events = append(s.events, e)
	if len(s.events) > keptEvents {
		s.events = s.events[len(s.events)-keptEvents:]
	}
}

// left is the estimated time to the last step, and whether there is an estimate: from the steps seen so far.
func (s *screen) left() (time.Duration, bool) {
	steps := s.last.step - s.first.step
	if steps == 0 || s.newest.GetTotalSteps() < s.last.step {
		return 0, false
	}
	per := s.last.at.Sub(s.first.at) / time.Duration(steps)
	return per * time.Duration(s.newest.GetTotalSteps()-s.last.step), true
}

// render is the picture: a headline, the bar, the newest step's figures, the loss curve, the workers, the newest events.
func (s *screen) render() string {
	width := min(max(s.width, minWidth), maxWidth)
	var b strings.Builder
	line := func(format string, a ...any) { b.WriteString(clip(fmt.Sprintf(format, a...), width) + "\n") }
	if s.status != nil {
		line("%s · %s · generation %d · %s", s.status.GetJob(), s.status.GetState(), s.status.GetGeneration(), s.status.GetRunDir())
	}
	if l := s.newest; l != nil {
		done := float64(l.GetStep()) / float64(max(l.GetTotalSteps(), 1))
		left := ""
		if d, ok := s.left(); ok {
			left = " · " + d.Round(time.Second).String() + " left"
		}
		label := fmt.Sprintf(" step %d/%d%s", l.GetStep(), l.GetTotalSteps(), left)
		line("%s%s", bar(done, max(width-len([]rune(label)), 10)), label)
		line("loss %.4f · lr %.3g · grad norm %.3g · %.0f tokens/s", l.GetLoss(), l.GetLearningRate(), l.GetGradNorm(), l.GetTokensPerSecond())
	}
	if n := len(s.evaluations); n > 0 {
		first, last := s.evaluations[0], s.evaluations[n-1]
		line("held out: perplexity %.2f after step %d, %.2f after step %d", first.GetPerplexity(), first.GetStep(), last.GetPerplexity(), last.GetStep())
	}
	if len(s.losses) > 1 {
		b.WriteString(curve(s.losses, width, curveRows))
	}
	if s.status != nil && len(s.status.GetWorkers()) > 0 {
		line("")
		line("%-12s %4s %8s %-14s %6s %10s", "worker", "rank", "pid", "state", "step", "memory")
		for _, w := range s.status.GetWorkers() {
			rank := "-"
			if w.GetRank() >= 0 {
				rank = fmt.Sprint(w.GetRank())
			}
			state := strings.ToLower(strings.TrimPrefix(w.GetPhase().String(), "PHASE_"))
			line("%-12s %4s %8d %-14s %6d %10s", w.GetId(), rank, w.GetPid(), state, w.GetStep(), humanBytes(total(w.GetMemoryBytes())))
		}
	}
	for _, e := range s.events {
		line("%s  %s", e.Time.Format("15:04:05"), e.What)
	}
	return b.String()
}

func total(m map[string]int64) int64 {
	var n int64
	for _, v := range m {
		n += v
	}
	return n
}

// humanBytes is n in the binary unit that fits.
func humanBytes(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
}

func bar(done float64, width int) string {
	full := int(math.Round(min(max(done, 0), 1) * float64(width)))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// curve draws values as columns of rows lines, newest at the right: each column is the median of its share of
// the values, so that a spike does not hide the rest.
func curve(values []float64, width, rows int) string {
	const axis = 9
	columns := min(max(width-axis, 10), len(values))
	points := make([]float64, columns)
	for c := range points {
		share := append([]float64(nil), values[c*len(values)/columns:(c+1)*len(values)/columns]...)
		sort.Float64s(share)
		points[c] = share[len(share)/2]
	}
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, p := range points {
		if !math.IsNaN(p) && !math.IsInf(p, 0) {
			lo, hi = min(lo, p), max(hi, p)
		}
	}
	if lo > hi {
		return ""
	}
	steps := []rune(" ▁▂▃▄▅▆▇█")
	var b strings.Builder
	for r := rows - 1; r >= 0; r-- {
		switch r {
		case rows - 1:
			fmt.Fprintf(&b, "%7.3f ┤", hi)
		case 0:
			fmt.Fprintf(&b, "%7.3f ┤", lo)
		default:
			b.WriteString("        │")
		}
		for _, p := range points {
			level := 1.0 // a point at the bottom is still seen
			if hi > lo && p > lo {
				level = max(1, (p-lo)/(hi-lo)*float64(rows*8))
			}
			cell := int(math.Round(level)) - 8*r
			b.WriteRune(steps[min(max(cell, 0), 8)])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func clip(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}
