package coordinator

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/zerofleet/zerofleet/membership"
)

// Plain shows a run as lines of text.
type Plain struct {
	w     io.Writer
	every uint64 // a line for every so many steps; 0: for each
}

// NewPlain writes to w, a line for every so many steps.
func NewPlain(w io.Writer, every int) *Plain { return &Plain{w: w, every: uint64(max(every, 1))} }

// Status shows nothing: what changes is told by events and steps.
func (p *Plain) Status(*Status) {}

// Step shows a step.
func (p *Plain) Step(l *membership.StepLine) {
	if l.GetStep()%p.every != 0 && l.GetStep() != l.GetTotalSteps() && l.GetStep() != 1 {
		return
	}
	skipped := ""
	if l.GetSkipped() {
		skipped = "  skipped"
	}
	fmt.Fprintf(p.w, "step %*d/%d  loss %.4f  lr %.2e  grad_norm %.3f  %.0f tokens/s%s\n",
		len(fmt.Sprint(l.GetTotalSteps())), l.GetStep(), l.GetTotalSteps(), l.GetLoss(), l.GetLearningRate(), l.GetGradNorm(), l.GetTokensPerSecond(), skipped)
}

// Evaluation shows an evaluation's result.
func (p *Plain) Evaluation(l *membership.EvaluationLine) {
	fmt.Fprintf(p.w, "evaluation after step %d: loss %.4f  perplexity %.2f\n", l.GetStep(), l.GetLoss(), l.GetPerplexity())
}

// Event shows what else happened.
func (p *Plain) Event(e Event) {
	if e.Type == "failed" {
		return // the command's error says it, with what is in the log
	}
	from := ""
	if e.Worker != "" {
		from = "worker " + e.Worker + ": "
	}
	why := ""
	if e.Why != "" {
		why = " (" + e.Why + ")"
	}
	if resume := e.Fields["resume"]; resume != "" { // a line of its own, to copy
		fmt.Fprintf(p.w, "%s%s\n%s\n", from, strings.TrimSuffix(e.What, ":")+why+":", resume)
		return
	}
	fmt.Fprintf(p.w, "%s%s%s\n", from, e.What, why)
}

// Close does nothing: the writer is the caller's.
func (p *Plain) Close() error { return nil }

// JSONLines shows a run as the lines that its events.jsonl and metrics.jsonl get, in one stream: steps have the type
// "step", evaluations "evaluation".
type JSONLines struct {
	w   io.Writer
	err error
}

// NewJSONLines writes to w.
func NewJSONLines(w io.Writer) *JSONLines { return &JSONLines{w: w} }

func (j *JSONLines) line(v any) {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = j.w.Write(append(b, '\n'))
	}
	if j.err == nil {
		j.err = err
	}
}

// Status shows nothing: what changes is told by events and steps.
func (j *JSONLines) Status(*Status) {}

// Step shows a step.
func (j *JSONLines) Step(l *membership.StepLine) {
	j.line(struct {
		Type string `json:"type"`
		stepJSON
	}{"step", stepLine(l)})
}

// Evaluation shows an evaluation's result.
func (j *JSONLines) Evaluation(l *membership.EvaluationLine) {
	j.line(struct {
		Type string `json:"type"`
		evaluationJSON
	}{"evaluation", evaluationLine(l)})
}

// Event shows what else happened.
func (j *JSONLines) Event(e Event) {
	j.line(eventJSON{Time: e.Time, Type: e.Type, What: e.What, Why: e.Why, Worker: e.Worker, Fields: e.Fields})
}

// Close reports the first error in writing.
func (j *JSONLines) Close() error {
	if j.err != nil {
		return fmt.Errorf("write events: %w", j.err)
	}
	return nil
}
