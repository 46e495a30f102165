package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/bench/place"
)

// contender is who is measured.
type contender struct {
	name       string
	operations []string
	from       int64 // no smaller size is measured
	// prepare makes what the contender needs, or says what is missing; nil for nothing.
	prepare func(context.Context) error
	// only says why the contender cannot be measured at a place; "" if it can, nil for everywhere.
	only func(*place.Place) string
	open func(ctx context.Context, p *place.Place, ranks int) (session, error)
}

func (c *contender) does(op string) bool { return slices.Contains(c.operations, op) }

// order is what the ranks are told to do: an operation, bytes per rank, how often it is timed after one that is not, and
// whether that one's result is to be checked.
type order struct {
	operation string
	bytes     int64
	times     int
	check     bool
}

// String is the line in which a rank is told.
func (o order) String() string {
	return fmt.Sprintf("%s %d %d %t", o.operation, o.bytes, o.times, o.check)
}

func parseOrder(line string) (o order, err error) {
	words := strings.Fields(line)
	if len(words) != 4 {
		return o, fmt.Errorf("order %q: want 4 words", line)
	}
	var errs [3]error
	o.operation = words[0]
	o.bytes, errs[0] = strconv.ParseInt(words[1], 10, 64)
	o.times, errs[1] = strconv.Atoi(words[2])
	o.check, errs[2] = strconv.ParseBool(words[3])
	if err := errors.Join(errs[:]...); err != nil {
		return o, fmt.Errorf("order %q: %w", line, err)
	}
	if o.bytes < 1 || o.times < 1 {
		return o, fmt.Errorf("order %q: want at least one byte, once", line)
	}
	return o, nil
}

// session is a contender whose ranks run and wait for orders, without using a core.
type session interface {
	// measure gives the seconds of one operation on the slowest rank.
	measure(context.Context, order) (float64, error)
	// close ends every process of it.
	close() error
}

// crew is the processes of a session, each of which is told what to do in lines and answers each with one.
type crew struct{ members []*member }

// member is one process. Its first line says where its peers find it, its second that it has met them; then it answers each
// order with "ok SECONDS" or "error TEXT". It ends when its input does.
type member struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string   // closed when its output ends
	ended chan struct{} // closed when it has been waited for
	said  tail
}

// tail keeps the end of what a process says on its standard error.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-tailBytes):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// start adds a process, which dies with this one.
func (c *crew) start(name string, cmd *exec.Cmd) error {
	m := &member{name: name, cmd: cmd, lines: make(chan string, 16), ended: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &m.said
	cmd.WaitDelay = grace
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	m.in = in
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(m.ended)
		defer close(m.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			m.lines <- s.Text()
		}
		_ = cmd.Wait() // how it ended shows in what it did not answer
	}()
	c.members = append(c.members, m)
	return nil
}

// line is the next line of a process.
func (m *member) line(ctx context.Context) (string, error) {
	select {
	case l, ok := <-m.lines:
		if !ok {
			return "", fmt.Errorf("%s has ended: %s", m.name, m.said.String())
		}
		return l, nil
	case <-ctx.Done():
		return "", fmt.Errorf("%s does not answer: %w: %s", m.name, context.Cause(ctx), m.said.String())
	}
}

// tell writes a line to every process, and gives the answer of each.
func (c *crew) tell(ctx context.Context, text string) ([]string, error) {
	for _, m := range c.members {
		if _, err := io.WriteString(m.in, text+"\n"); err != nil {
			return nil, fmt.Errorf("tell %s: %w: %s", m.name, err, m.said.String())
		}
	}
	return c.answers(ctx)
}

func (c *crew) answers(ctx context.Context) (all []string, err error) {
	for _, m := range c.members {
		l, err := m.line(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// meet tells all members where all of them are, and waits until they have met.
func (c *crew) meet(ctx context.Context) error {
	where, err := c.answers(ctx)
	if err != nil {
		return err
	}
	list, err := json.Marshal(where)
	if err != nil {
		return err
	}
	met, err := c.tell(ctx, string(list))
	if err != nil {
		return err
	}
	for i, l := range met {
		if l != "ready" {
			return fmt.Errorf("%s: %s", c.members[i].name, l)
		}
	}
	return nil
}

func (c *crew) measure(ctx context.Context, o order) (slowest float64, err error) {
	answers, err := c.tell(ctx, o.String())
	if err != nil {
		return 0, err
	}
	for i, l := range answers {
		s, err := answer(l)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", c.members[i].name, err)
		}
		slowest = max(slowest, s)
	}
	return slowest, nil
}

// answer is what a process says to an order.
func answer(line string) (seconds float64, err error) {
	word, rest, _ := strings.Cut(line, " ")
	if word != "ok" {
		return 0, errors.New(line)
	}
	seconds, err = strconv.ParseFloat(rest, 64)
	if err != nil || !(seconds > 0) {
		return 0, fmt.Errorf("answer %q: want seconds above 0", line)
	}
	return seconds, nil
}

// grace is how long a process has to end by itself, and again after SIGTERM.
const grace = 3 * time.Second

func (c *crew) close() error {
	for _, m := range c.members {
		_ = m.in.Close()
	}
	wait := func() (all bool) {
		late := time.After(grace)
		for _, m := range c.members {
			for open := true; open; {
				select {
				case _, open = <-m.lines: // nobody else reads what it still says
				case <-late:
					return false
				}
			}
		}
		return true
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if wait() {
			break
		}
		for _, m := range c.members {
			select {
			case <-m.ended:
			default:
				_ = syscall.Kill(-m.cmd.Process.Pid, sig)
			}
		}
	}
	for _, m := range c.members {
		for range m.lines {
		}
		<-m.ended
	}
	return nil
}
