package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func chaosCommand() *cobra.Command {
	return group("chaos", "disturb a run's workers, to see that it goes on",
		chaosVerb(coordinator.Kill, "end workers of this machine with SIGKILL, each time when the last loss has been got over", 0),
		chaosVerb(coordinator.Stop, "stop workers of this machine with SIGSTOP for a while", 5*time.Second),
		chaosVerb(coordinator.Notice, "tell workers of this machine, with SIGTERM, that it goes", 0),
		chaosVerb(coordinator.Partition, "cut workers off from the others and the coordinator for a while", 15*time.Second),
		chaosVerb(coordinator.Slow, "let what workers send pass slowly for a while", 5*time.Second))
}

// chaosVerb is one kind's; lasts is how long it does when nobody says so, 0 for what has no length.
func chaosVerb(kind coordinator.ChaosKind, short string, lasts time.Duration) *cobra.Command {
	o := coordinator.Chaos{Kind: kind}
	c := &cobra.Command{Use: string(kind) + " RUN", Short: short, Args: args(cobra.ExactArgs(1))}
	f := c.Flags()
	f.IntVar(&o.Rank, "rank", -1, "whom (default: anybody)")
	f.DurationVar(&o.Every, "every", 0, "again this long after all train again (default: once)")
	f.IntVar(&o.Times, "times", 0, "how often, with --every (default: until the run ends)")
	f.Uint64Var(&o.Seed, "seed", 0, "of who is chosen (default: another one each time, which is printed)")
	if lasts > 0 {
		f.DurationVar(&o.For, "for", lasts, "how long")
	}
	if kind == coordinator.Slow {
		f.Float64Var(&o.Rate, "rate", 1e6, "bytes a second that it may send")
	}
	c.RunE = func(c *cobra.Command, given []string) error {
		if o.Seed == 0 {
			o.Seed = rand.Uint64()
		}
		fmt.Fprintf(c.OutOrStdout(), "seed %d\n", o.Seed)
		return coordinator.Disturb(c.Context(), c.OutOrStdout(), given[0], o)
	}
	return c
}
