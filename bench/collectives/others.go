package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/zerofleet/zerofleet/bench/place"
)

//go:embed gloo_rank.py
var glooRank string

//go:embed mpi/rank.c
var mpiRank string

// gloo is torch.distributed's backend for hosts, over TCP.
func gloo(python, dir string) *contender {
	script := filepath.Join(dir, "gloo_rank.py")
	return &contender{
		name: "gloo", operations: collectives,
		prepare: func(ctx context.Context) error {
			if python == "" {
				return errors.New("no -python")
			}
			if out, err := exec.CommandContext(ctx, python, "-c", "import torch.distributed as d; assert d.is_gloo_available()").CombinedOutput(); err != nil {
				return fmt.Errorf("%s has no torch with Gloo, which tools/venv.sh installs: %w: %s", python, err, lastLine(out))
			}
			return os.WriteFile(script, []byte(glooRank), 0o644)
		},
		open: func(ctx context.Context, p *place.Place, ranks int) (_ session, err error) {
			c := &crew{}
			defer func() {
				if err != nil {
					err = errors.Join(err, c.close())
				}
			}()
			for r := range ranks {
				cmd := p.Command(r, ranks, python, script, fmt.Sprint(r), fmt.Sprint(ranks), p.Address(r, ranks))
				// Pages as ours are; a thread each, as ours has for the sums.
				cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "CUDA_VISIBLE_DEVICES=", "THP_MEM_ALLOC_ENABLE=1", "GLOO_SOCKET_IFNAME="+p.Device())
				if err := c.start(fmt.Sprintf("gloo's rank %d", r), cmd); err != nil {
					return nil, err
				}
			}
			return c, c.meet(ctx)
		},
	}
}

// Open MPI by the way its ranks on one host exchange.
const (
	mpiShared = "openmpi"     // as it chooses: shared memory on one host
	mpiTCP    = "openmpi-tcp" // TCP alone
)

func openMPI(name, dir string) *contender {
	program := filepath.Join(dir, "mpi_rank")
	return &contender{
		name: name, operations: collectives,
		prepare: func(ctx context.Context) error {
			for _, tool := range []string{"mpirun", "mpicc"} {
				if _, err := exec.LookPath(tool); err != nil {
					return fmt.Errorf("no %s, which tools/openmpi.sh installs", tool)
				}
			}
			source := program + ".c"
			if err := os.WriteFile(source, []byte(mpiRank), 0o644); err != nil {
				return err
			}
			if out, err := exec.CommandContext(ctx, "mpicc", "-O2", "-o", program, source).CombinedOutput(); err != nil {
				return fmt.Errorf("mpicc: %w: %s", err, lastLine(out))
			}
			return nil
		},
		open: func(ctx context.Context, p *place.Place, ranks int) (_ session, err error) {
			args := []string{"--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "-n", fmt.Sprint(ranks)}
			if name == mpiTCP {
				args = append(args, "--mca", "btl", "tcp,self")
			}
			if p.Name == place.Host {
				args = append(args, "--mca", "btl_tcp_if_include", "lo")
			} else {
				agent, err := mpiAgent(p, dir)
				if err != nil {
					return nil, err
				}
				var hosts []string
				for side, addr := range place.SideAddresses {
					slots := 0
					for r := range ranks {
						if p.Side(r, ranks) == side {
							slots++
						}
					}
					hosts = append(hosts, fmt.Sprintf("%s:%d", addr, slots))
				}
				args = append(args, "--host", strings.Join(hosts, ","), "--mca", "plm_rsh_agent", agent, "--mca", "oob_tcp_if_include", place.Network,
					"--mca", "btl_tcp_if_include", place.Network)
			}
			c := &crew{}
			defer func() {
				if err != nil {
					err = errors.Join(err, c.close())
				}
			}()
			if err := c.start("mpirun", p.Command(0, ranks, "mpirun", append(args, program)...)); err != nil {
				return nil, err
			}
			return c, c.meet(ctx)
		},
	}
}

// mpiAgent writes what mpirun calls in the place of ssh: it runs a command in the namespace that has the address.
func mpiAgent(p *place.Place, dir string) (string, error) {
	path := filepath.Join(dir, "agent-"+p.Name)
	script := fmt.Sprintf("#!/bin/sh\nhost=$1\nshift\ncase $host in\n%s) n=%s ;;\n%s) n=%s ;;\nesac\nexec ip netns exec $n unshare --uts sh -c \"hostname $n; $*\"\n",
		place.SideAddresses[0], p.Namespaces()[0], place.SideAddresses[1], p.Namespaces()[1])
	return path, os.WriteFile(path, []byte(script), 0o755)
}

func iperf3There(context.Context) error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		return errors.New("no iperf3, which tools/openmpi.sh installs")
	}
	return nil
}

// iperf3Port is iperf3's own.
const iperf3Port = "5201"

// iperf3 is a server of it, and what to call it with. It implements session.
type iperf3 struct {
	p      *place.Place
	server *crew
}

func openIperf3(ctx context.Context, p *place.Place, _ int) (session, error) {
	s := &iperf3{p, &crew{}}
	cmd := p.Command(1, 2, "iperf3", "--server", "--bind", p.Address(1, 2), "--port", iperf3Port, "--forceflush")
	if err := s.server.start("iperf3's server", cmd); err != nil {
		return nil, err
	}
	m := s.server.members[0]
	for {
		l, err := m.line(ctx)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		if strings.Contains(l, "listening") {
			break
		}
	}
	go func() { // it reports every stream; close waits for it
		for range m.lines {
		}
	}()
	return s, nil
}

// measure is the time of o.bytes at the rate of a stream of all of the round's bytes.
func (s *iperf3) measure(ctx context.Context, o order) (float64, error) {
	cmd := s.p.Command(0, 2, "iperf3", "--client", s.p.Address(1, 2), "--port", iperf3Port, "--bytes", fmt.Sprint(o.bytes*int64(o.times)), "--json")
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start iperf3: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	var said struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if e := json.Unmarshal(out.Bytes(), &said); e != nil || err != nil || said.Error != "" || !(said.End.Received.Rate > 0) {
		return 0, fmt.Errorf("iperf3: %w: %s", errors.Join(err, e, context.Cause(ctx)), said.Error)
	}
	return float64(o.bytes) * 8 / said.End.Received.Rate, nil
}

func (s *iperf3) close() error {
	for _, m := range s.server.members {
		_ = m.cmd.Process.Signal(syscall.SIGTERM) // it does not mind its input
	}
	return s.server.close()
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
