// Package live shows a run in a terminal: progress with the time left, the loss as a curve, speed, gradient norm, and
// what each worker does. Call New with the terminal and give the result to the coordinator as its View.
//
// screen is what is shown and its text is a pure function of it (render.go); this file feeds it to the terminal.
package live

import (
	"context"
	"fmt"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/zerofleet/zerofleet/coordinator"
	"github.com/zerofleet/zerofleet/membership"
)

// View is a coordinator.View. Close leaves the last picture on the terminal.
type View struct {
	program *tea.Program
	stop    context.CancelFunc
	ticks   chan struct{} // closed when no tick comes any more
	done    chan error
}

// New takes over out, a terminal. It reads no keys and handles no signal: Ctrl-C stays the coordinator's.
func New(out io.Writer) *View {
	ctx, stop := context.WithCancel(context.Background())
	v := &View{stop: stop, ticks: make(chan struct{}), done: make(chan error, 1)}
	v.program = tea.NewProgram(shell{screen: screen{width: 80}},
		tea.WithOutput(out), tea.WithInput(nil), tea.WithoutSignalHandler(), tea.WithFPS(10), tea.WithWindowSize(80, 24))
	go func() {
		_, err := v.program.Run()
		v.done <- err
	}()
	go func() { // tea.Tick's goroutines outlive the program
		defer close(v.ticks)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case at := <-t.C:
				v.program.Send(tick(at))
			}
		}
	}()
	return v
}

// Status, Step, Evaluation and Event are coordinator.View's.
func (v *View) Status(s *coordinator.Status)            { v.program.Send(s) }
func (v *View) Step(l *membership.StepLine)             { v.program.Send(l) }
func (v *View) Evaluation(l *membership.EvaluationLine) { v.program.Send(l) }
func (v *View) Event(e coordinator.Event)               { v.program.Send(e) }

// Close draws the last picture and gives the terminal back.
func (v *View) Close() error {
	v.stop()
	<-v.ticks
	v.program.Quit()
	if err := <-v.done; err != nil {
		return fmt.Errorf("live view: %w", err)
	}
	return nil
}

type tick time.Time

// shell is the Bubble Tea side: it turns messages into changes of the screen.
type shell struct{ screen screen }

func (s shell) Init() tea.Cmd { return nil }

func (s shell) Update(m tea.Msg) (tea.Model, tea.Cmd) {
	switch m := m.(type) {
	case tea.WindowSizeMsg:
		s.screen.width = m.Width
	case tick:
		s.screen.now = time.Time(m)
	case *coordinator.Status:
		s.screen.status = m
	case *membership.StepLine:
		s.screen.step(m, time.Now())
	case *membership.EvaluationLine:
		s.screen.evaluations = append(s.screen.evaluations, m)
	case coordinator.Event:
		s.screen.event(m)
	}
	return s, nil
}

func (s shell) View() tea.View { return tea.NewView(s.screen.render()) }
