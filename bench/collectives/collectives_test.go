package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zerofleet/zerofleet/bench/place"
)

// The ranks of a test are the test's program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == rankCommand {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"1024": 1024, "4KiB": 4096, "4160": 4160, "64KiB": 65536, "1MiB": 1 << 20, "256MiB": 256 << 20,
		"": 0, "KiB": 0, "0KiB": 0, "-4KiB": 0, "960": 0, "4 KiB": 0, "4kB": 0, "1030": 0, "257MiB": 0, "1GiB": 0, "9223372036854775807": 0, "2147483647GiB": 0,
	} {
		got, err := parseSize(in)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("parseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for n, want := range map[int64]string{1024: "1 KiB", 4160: "4160 B", 65536: "64 KiB", 3 << 20: "3 MiB", 1 << 30: "1 GiB"} {
		if got := sizeName(n); got != want {
			t.Errorf("sizeName(%d) = %q, want %q", n, got, want)
		}
	}
}

// The definition, by hand: 4 ranks with 1 MiB each gather 4 MiB; the slowest rank takes 2 ms: 4194304/0.002 bytes a second.
func TestRateIsTheFullBufferOverTheTime(t *testing.T) {
	for _, op := range collectives {
		c := &cell{Ranks: 4, Operation: op, Bytes: 1 << 20, Seconds: []float64{4e-3, 2e-3, 1e-3}}
		mid, low, high := c.rate()
		for i, pair := range [][2]float64{{mid, 2.097152}, {low, 1.048576}, {high, 4.194304}} {
			if math.Abs(pair[0]-pair[1]) > 1e-12 {
				t.Errorf("%s: figure %d is %v GB/s, want %v", op, i, pair[0], pair[1])
			}
		}
		if got, want := c.String(), "2.10 (1.05-4.19)"; got != want {
			t.Errorf("%s: %q, want %q", op, got, want)
		}
	}
	stream := &cell{Ranks: 2, Operation: opStream, Bytes: 1 << 20, Seconds: []float64{1e-3}}
	if mid, _, _ := stream.rate(); math.Abs(mid-1.048576) > 1e-12 {
		t.Errorf("a stream of 1 MiB in 1 ms: %v GB/s, want 1.048576", mid)
	}
	small := &cell{Ranks: 2, Operation: opAllGather, Bytes: 4096, Seconds: []float64{20e-6, 1234e-6, 30.04e-6, 40e-6}}
	if got, want := small.String(), "35.0 µs (20.0-1234)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTimesFor(t *testing.T) {
	for _, c := range []struct {
		seconds float64
		least   time.Duration
		want    int
	}{
		{0.05, 200 * time.Millisecond, 4}, {0.06, 200 * time.Millisecond, 4}, {5, time.Second, 1}, {1e-9, time.Second, most}, {0, time.Second, most}, {1, 0, 1},
	} {
		if got := timesFor(c.seconds, c.least); got != c.want {
			t.Errorf("timesFor(%v, %s) = %d, want %d", c.seconds, c.least, got, c.want)
		}
	}
}

func TestOrdersAndAnswers(t *testing.T) {
	want := order{opReduceScatter, 4096, 17, true}
	if got, err := parseOrder(want.String()); err != nil || got != want {
		t.Errorf("parseOrder(%q) = %v, %v", want, got, err)
	}
	for _, line := range []string{"", "all-gather", "all-gather x 1 true", "all-gather 1 1 perhaps"} {
		if o, err := parseOrder(line); err == nil {
			t.Errorf("parseOrder(%q) = %v, want an error", line, o)
		}
	}
	for line, want := range map[string]float64{"ok 0.25": 0.25, "ok 1e-06": 1e-6, "ok 0": 0, "ok NaN": 0, "ok": 0, "error all is lost": 0, "": 0} {
		got, err := answer(line)
		if got != want && err == nil || (err == nil) != (want != 0) {
			t.Errorf("answer(%q) = %v, %v, want %v", line, got, err, want)
		}
	}
}

// What is checked is every element: one that is wrong, anywhere, is found.
func TestCheckFindsOneWrongElement(t *testing.T) {
	const ranks, n = 3, 8
	for _, gathered := range []bool{true, false} {
		p := &operation{result: make([]float32, ranks*n), gathered: gathered, first: 0}
		for i := range p.result {
			if gathered {
				p.result[i] = value(i/n, i)
				continue
			}
			for r := range ranks {
				p.result[i] += value(r, i)
			}
		}
		if err := p.check(ranks); err != nil {
			t.Errorf("gathered %t: %v", gathered, err)
		}
		for i := range p.result {
			p.result[i]++
			if p.check(ranks) == nil {
				t.Errorf("gathered %t: element %d is wrong and was not found", gathered, i)
			}
			p.result[i]--
		}
	}
}

func someCells() (cells []*cell) {
	for _, g := range []struct {
		place, op string
		ranks     int
	}{{place.Host, opAllGather, 2}, {place.Host, opAllReduce, 2}, {place.Host, opStream, 2}, {place.Veth, opAllGather, 4}} {
		for i, size := range []int64{4096, 1 << 20, 64 << 20} {
			for k, name := range []string{"zf-grpc", "a<b>&c"} {
				if g.op == opStream && i == 0 {
					continue // a contender that starts later
				}
				s := float64(size) * 1e-9 * float64(k+1)
				cells = append(cells, &cell{Place: g.place, Ranks: g.ranks, Operation: g.op, Bytes: size, Contender: name, Seconds: []float64{s, s * 1.5, s * 40}})
			}
		}
	}
	return append(cells, &cell{Place: place.Host, Ranks: 2, Operation: opAllGather, Bytes: 4096, Contender: "nobody"})
}

// The plot is XML, names who is in it, and draws nothing outside itself.
func TestPlotIsWellFormed(t *testing.T) {
	for name, cells := range map[string][]*cell{"some": someCells(), "one": someCells()[:1], "none": nil} {
		svg := plot(cells)
		d := xml.NewDecoder(bytes.NewReader(svg))
		var text []string
		elements := 0
		for {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v in\n%s", name, err, svg)
			}
			switch tok := tok.(type) {
			case xml.CharData:
				text = append(text, string(tok))
			case xml.StartElement:
				elements++
				for _, a := range tok.Attr {
					if a.Name.Local == "d" && tok.Name.Local == "path" {
						checkPath(t, a.Value)
					}
				}
			}
		}
		if elements == 0 {
			t.Errorf("%s: nothing is drawn", name)
		}
		if name == "some" && (!slices.Contains(text, "a<b>&c") || !slices.Contains(text, "all-gather, veth, 4 ranks") || slices.Contains(text, "nobody")) {
			t.Errorf("names or panels are not those of the cells: %q", text)
		}
	}
}

// checkPath sees that a path's coordinates are numbers. Legends lie below the panels, so heights have no bound here.
func checkPath(t *testing.T, d string) {
	t.Helper()
	numbers := strings.FieldsFunc(d, func(r rune) bool { return strings.ContainsRune("MLHVh ", r) })
	for _, n := range numbers {
		v, err := strconv.ParseFloat(n, 64)
		if err != nil || math.IsNaN(v) || v < 0 || v > 3*panelWidth {
			t.Errorf("path %q goes to %s: %v", d, n, err)
		}
	}
}

// Every row of a table has as many columns as its head, and shows the figure that belongs there.
func TestTables(t *testing.T) {
	var b strings.Builder
	if err := writeTables(&b, &report{Cells: someCells()}); err != nil {
		t.Fatal(err)
	}
	columns, rows := 0, 0
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		n := strings.Count(line, "|")
		if columns == 0 {
			columns = n
		}
		if n != columns {
			t.Errorf("a row of %d columns in a table of %d: %s", n, columns, line)
		}
		rows++
	}
	if want := 6 + 2 + 3 + 3*2; rows != want { // the heads too, of two lines each
		t.Errorf("%d rows, want %d:\n%s", rows, want, b.String())
	}
	if want := "| all-gather | 1 MiB | 1.33 (0.050-2.00) | 0.667 (0.025-1.00) | - |"; !strings.Contains(b.String(), want) {
		t.Errorf("no row %s in\n%s", want, b.String())
	}
}

// The whole of it, small: ranks of ours in processes of their own, whose results are checked, and streams.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	var out, progress strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	who := []string{"zf-grpc-tls-sum", "zf-grpc", "memory", "bare-tcp", "bare-tcp-tls", "bare-grpc", "bare-grpc-tls"}
	err := run(ctx, []string{"-contenders", strings.Join(who, ","), "-ranks", "2,3", "-sizes", "4KiB,1088,256KiB", "-rounds", "2", "-for", "1ns",
		"-json", filepath.Join(dir, "r.json"), "-svg", filepath.Join(dir, "r.svg")}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	b, err := os.ReadFile(filepath.Join(dir, "r.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	const sizes, worlds, collectives, among, streams = 3, 2, 3, 3, 4
	if want := sizes * (worlds*collectives*among + streams); len(r.Cells) != want {
		t.Errorf("%d cells, want %d", len(r.Cells), want)
	}
	for _, c := range r.Cells {
		if mid, low, high := c.rate(); len(c.Seconds) != 2 || c.Times != 1 || !(low > 0 && low <= mid && mid <= high) {
			t.Errorf("%+v: want 2 rounds of 1 and a rate", *c)
		}
		if !strings.Contains(out.String(), c.String()) {
			t.Errorf("the table has no %s", c)
		}
	}
	if svg, err := os.ReadFile(filepath.Join(dir, "r.svg")); err != nil || !bytes.HasSuffix(svg, []byte("</svg>\n")) {
		t.Errorf("the plot has %d bytes: %v", len(svg), err)
	}
}

// A run that is interrupted ends at once, and leaves no process: run returns when all have been waited for.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var out strings.Builder
	err := run(ctx, []string{"-contenders", "zf-grpc", "-ops", "all-gather", "-ranks", "2", "-sizes", "4KiB,8KiB", "-rounds", "1", "-for", "1ns"}, &out, writerFunc(cancel))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
	if !strings.Contains(out.String(), "| all-gather | 4 KiB |") || strings.Contains(out.String(), "8 KiB | ") {
		t.Errorf("the table is not that of what was measured:\n%s", out.String())
	}
}

// Who is missing is left out, and the notes say what would bring it.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out strings.Builder
	if err := run(context.Background(), []string{"-python", "", "-contenders", "gloo,openmpi,iperf3"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Left out: gloo: no -python.", "Left out: openmpi: no mpirun, which tools/openmpi.sh installs.", "Left out: iperf3: no iperf3, which tools/openmpi.sh installs."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// What a process said before it died is in the error of who waits for it.
func TestDeathOfARank(t *testing.T) {
	c := &crew{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, script := range []string{"echo here; read all; echo ready; read order; echo ok 0.5; read end", "echo there; read all; echo ready; read order; echo broken >&2"} {
		if err := c.start(fmt.Sprint("rank ", i), exec.Command("sh", "-c", script)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.meet(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := c.measure(ctx, order{opAllGather, 4096, 1, false}); err == nil || !strings.Contains(err.Error(), "rank 1 has ended: broken") {
		t.Errorf("%v, %v, want what the second one said", s, err)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
	for _, m := range c.members {
		if m.cmd.ProcessState == nil {
			t.Errorf("%s was not waited for", m.name)
		}
	}
}

// writerFunc is called when something is written: with the first line of progress.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestOptions(t *testing.T) {
	for _, args := range []string{"-ranks 1", "-ranks 2,x", "-sizes 3", "-ops gather", "-places moon", "-contenders nobody", "-rounds 0", "more"} {
		if _, err := parseOptions(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%s: want an error", args)
		}
	}
	o, err := parseOptions(nil, io.Discard)
	if err != nil || !slices.Equal(o.contenders, contenderNames()) || len(o.sizes) != 5 || !slices.Equal(o.ranks, []int{2, 4}) {
		t.Errorf("without flags: %+v, %v", o, err)
	}
}
