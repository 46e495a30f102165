package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func exportCommand() *cobra.Command {
	var out, dtype string
	c := &cobra.Command{
		Use:   "export RUN|CHECKPOINT --out DIR",
		Short: "write a checkpoint's model as a Hugging Face folder",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			if out == "" { // cobra's own check of a required flag is no usage error
				return usage{fmt.Errorf("%s: --out DIR is required", c.CommandPath())}
			}
			switch dtype {
			case "", "f32", "bf16", "f16":
			default:
				return usage{fmt.Errorf("--dtype %q: want f32, bf16 or f16", dtype)}
			}
			step, err := coordinator.Export(c.Context(), given[0], out, dtype)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: the model of step %d\n", out, step)
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "", "the folder to write")
	c.Flags().StringVar(&dtype, "dtype", "", "f32, bf16 or f16 (default: what the job computed in)")
	return c
}
