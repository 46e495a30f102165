package main

import (
	"context"

	"github.com/zerofleet/zerofleet/bench/place"
)

// variant is one way in which ranks of ours exchange.
type variant struct {
	transport     string
	tls, checksum bool
}

func (v variant) name() string {
	n := "zf-" + v.transport
	if v.tls {
		n += "-tls"
	}
	if v.checksum {
		n += "-sum"
	}
	return n
}

var variants = []variant{
	{transportSHM, true, true},   // what a job has between workers of one host
	{transportLanes, true, true}, // and between hosts
	{transportLanes, true, false},
	{transportLanes, false, true},
	{transportLanes, false, false},
	{transportGRPC, true, true},
	{transportGRPC, true, false},
	{transportGRPC, false, true},
	{transportGRPC, false, false},
}

var collectives = []string{opAllGather, opReduceScatter, opAllReduce}

// iperf3From is the least size for iperf3, which gives a rate and no time of a message.
const iperf3From = 16 << 20

// contenders are all who can take part, in the order in which they do. dir is for files that they need.
func contenders(o options, dir string) []*contender {
	var list []*contender
	var shared *pair
	for _, v := range variants {
		c := ours(v.name(), setup{What: v.transport, Checksum: v.checksum}, v.tls, &shared, collectives)
		if v.transport == transportSHM {
			c.only = onOneHost("ranks that share no network namespace share no memory")
		}
		list = append(list, c)
	}
	list = append(list,
		gloo(o.python, dir),
		openMPI(mpiShared, dir),
		openMPI(mpiTCP, dir),
		&contender{name: "memory", operations: collectives,
			open: func(_ context.Context, _ *place.Place, ranks int) (session, error) { return threads{ranks}, nil },
			only: onOneHost("threads of one process share memory")},
	)
	for _, what := range []string{bareTCP, bareGRPC} {
		list = append(list,
			ours(what, setup{What: what}, false, &shared, []string{opStream}),
			ours(what+"-tls", setup{What: what}, true, &shared, []string{opStream}))
	}
	return append(list, &contender{name: "iperf3", operations: []string{opStream}, from: iperf3From, prepare: iperf3There, open: openIperf3})
}

// onOneHost says why, at any other place.
func onOneHost(why string) func(*place.Place) string {
	return func(p *place.Place) string {
		if p.Name != place.Host {
			return why
		}
		return ""
	}
}

// ours is a contender whose ranks are this program. All of them share one pair.
func ours(name string, s setup, tls bool, shared **pair, ops []string) *contender {
	return &contender{
		name: name, operations: ops,
		prepare: func(context.Context) (err error) {
			if tls && *shared == nil {
				*shared, err = newPair()
			}
			return err
		},
		open: func(ctx context.Context, p *place.Place, ranks int) (session, error) {
			if tls {
				s.Pair = *shared
			}
			return openOurs(ctx, p, s, ranks)
		},
	}
}

func contenderNames() (names []string) {
	for _, c := range contenders(options{}, "") {
		names = append(names, c.name)
	}
	return names
}
