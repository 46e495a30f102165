// Package place is where benchmarks run processes: one host, or two network namespaces that stand for two.
package place

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Where ranks run.
const (
	Host = "host"    // all on 127.0.0.1
	Veth = "veth"    // half of them in each of two network namespaces, which a veth pair joins
	Slow = "veth-1g" // the same, with 1 Gbit/s and 1 ms in each direction
)

// Place is where ranks run. Close removes what was made for it.
type Place struct {
	Name  string
	names [2]string // of the namespaces; "" on the host itself
	wire  *wire     // what delays frames between them, nil for nothing
	undo  []func() error
}

// Network is that of the two sides.
const Network = "10.214.0.0/24"

// SideAddresses are theirs in it, and sideDevice the device that has one.
var SideAddresses = [2]string{"10.214.0.1", "10.214.0.2"}

const sideDevice = "zfbench0"

const (
	slowRate  = "1gbit"
	slowBurst = "256kb" // tbf cuts what is longer: a veth carries frames of up to 64 KiB
)

// New makes a place by its name. All but Host need root.
func New(name string) (p *Place, err error) {
	p = &Place{Name: name}
	if name == Host {
		return p, nil
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root, to make network namespaces")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := removeLeftovers(); err != nil {
		return nil, err
	}
	p.names = [2]string{fmt.Sprintf("%s%da", namespacePrefix, os.Getpid()), fmt.Sprintf("%s%db", namespacePrefix, os.Getpid())}
	for _, n := range p.names {
		if err := ip("netns", "add", n); err != nil {
			return nil, err
		}
		p.undo = append(p.undo, func() error { return removeNamespace(n) })
	}
	if name == Veth {
		err = ip("link", "add", sideDevice, "netns", p.names[0], "type", "veth", "peer", "name", sideDevice, "netns", p.names[1])
	} else {
		err = p.delayed()
	}
	if err != nil {
		return nil, err
	}
	for i, n := range p.names {
		if err := errors.Join(
			ip("-n", n, "addr", "add", SideAddresses[i]+"/24", "dev", sideDevice),
			ip("-n", n, "link", "set", sideDevice, "up"),
			ip("-n", n, "link", "set", "lo", "up"),
		); err != nil {
			return nil, err
		}
		if name == Slow {
			if err := command("tc", "-n", n, "qdisc", "add", "dev", sideDevice, "root", "tbf", "rate", slowRate, "burst", slowBurst, "latency", "50ms"); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// delayed joins the namespaces by two veth pairs and a wire between their near ends.
func (p *Place) delayed() error {
	for _, n := range p.names { // a near end has the name of its namespace
		if err := ip("link", "add", n, "type", "veth", "peer", "name", sideDevice, "netns", n); err != nil {
			return err
		}
		// The namespace takes its devices along only when the last connection of somebody killed has timed out.
		p.undo = append(p.undo, func() error { return ip("link", "delete", n) })
		if err := ip("link", "set", n, "up"); err != nil {
			return err
		}
	}
	w, err := openWire(p.names)
	if err != nil {
		return err
	}
	p.wire = w
	p.undo = append(p.undo, w.close)
	return nil
}

// Close removes what was made, the last first.
func (p *Place) Close() (err error) {
	for i := len(p.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, p.undo[i]())
	}
	p.undo = nil
	return err
}

// Namespaces are the names of its two network namespaces; "" on the host itself.
func (p *Place) Namespaces() [2]string { return p.names }

// Side is in which namespace a rank runs.
func (p *Place) Side(rank, ranks int) int {
	if p.names[1] == "" {
		return 0
	}
	return rank * 2 / ranks
}

// Address is where a rank is reached.
func (p *Place) Address(rank, ranks int) string {
	if p.names[0] == "" {
		return "127.0.0.1"
	}
	return SideAddresses[p.Side(rank, ranks)]
}

// Device is the network device between ranks.
func (p *Place) Device() string {
	if p.names[0] == "" {
		return "lo"
	}
	return sideDevice
}

// Command is a program that runs where a rank does.
func (p *Place) Command(rank, ranks int, program string, args ...string) *exec.Cmd {
	if n := p.names[p.Side(rank, ranks)]; n != "" {
		return exec.Command("ip", append([]string{"netns", "exec", n, program}, args...)...)
	}
	return exec.Command(program, args...)
}

// namespacePrefix begins the names of namespaces and near ends; the process that made them follows, and the side.
const namespacePrefix = "zfbench"

// removeLeftovers removes what earlier runs made that were killed.
func removeLeftovers() error {
	names, err := filepath.Glob("/run/netns/" + namespacePrefix + "*")
	if err != nil {
		return err
	}
	for _, path := range names {
		if name := filepath.Base(path); leftOver(name) {
			if err := removeNamespace(name); err != nil {
				return err
			}
		}
	}
	devices, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, d := range devices {
		if leftOver(d.Name) {
			if err := ip("link", "delete", d.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// leftOver says whether a name is of a process that is gone.
func leftOver(name string) bool {
	rest, ours := strings.CutPrefix(name, namespacePrefix)
	pid, err := strconv.Atoi(strings.TrimRight(rest, "ab"))
	return ours && err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// removeNamespace removes a namespace with its devices, and ends who is still in it: what mpirun started on the other side
// learns of its end only over the network.
func removeNamespace(name string) error {
	out, err := exec.Command("ip", "netns", "pids", name).Output()
	if err != nil {
		return fmt.Errorf("list the processes of namespace %s: %w", name, err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if pid, err := strconv.Atoi(word); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return ip("netns", "delete", name)
}

func ip(args ...string) error { return command("ip", args...) }

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
