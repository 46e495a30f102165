package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/worker/text"
)

func generateCommand() *cobra.Command {
	o := text.Options{}
	var precision string
	var stats bool
	c := &cobra.Command{
		Use:   "generate --model MODEL --prompt TEXT",
		Short: "go on with a text, or answer in a chat",
		Long: "Go on with a text, or with --chat answer it in the model's chat template.\n" +
			"Without --temperature the likeliest token is taken each time: greedy, the same text on every run.",
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			switch precision {
			case "f32":
				o.Act = kernels.F32
			case "bf16":
				o.Act = kernels.BF16
			default:
				return fmt.Errorf("%w: --precision %q: want f32 or bf16", text.ErrInput, precision)
			}
			if o.Prompt == "-" {
				b, err := io.ReadAll(c.InOrStdin())
				if err != nil {
					return fmt.Errorf("read the prompt: %w", err)
				}
				o.Prompt = string(b)
			}
			o.Out = c.OutOrStdout()
			r, err := text.Run(c.Context(), o)
			if len(r.Tokens) > 0 {
				fmt.Fprintln(o.Out)
			}
			if stats && err == nil {
				fmt.Fprintf(os.Stderr, "load %.2fs; prompt %d tokens in %.2fs; answer %d tokens (%s) at %.1f tokens/s\n",
					r.Load.Seconds(), r.PromptTokens, r.First.Seconds(), len(r.Tokens), r.Reason, r.TokensPerSecond())
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Model, "model", "", "a Hugging Face folder, a .gguf file, hf://org/name or preset://name")
	f.StringVar(&o.Prompt, "prompt", "", "the text to go on with; - reads it from standard input")
	f.BoolVar(&o.Chat, "chat", false, "put the prompt into the model's chat template")
	f.StringVar(&o.System, "system", "", "with --chat: the system message")
	f.IntVar(&o.Sampling.MaxTokens, "max-tokens", 256, "tokens to add at most")
	f.Float64Var(&o.Sampling.Temperature, "temperature", 0, "divides the logits before sampling; 0 is greedy")
	f.Float64Var(&o.Sampling.TopP, "top-p", 1, "sample from the likeliest tokens that make up this probability")
	f.IntVar(&o.Sampling.TopK, "top-k", 0, "sample from this many likeliest tokens; 0 from all")
	f.Float64Var(&o.Sampling.RepetitionPenalty, "repetition-penalty", 1, "above 1 makes tokens that were there already less likely")
	f.StringArrayVar(&o.Sampling.Stop, "stop", nil, "end before this string; may be given several times")
	f.Uint64Var(&o.Seed, "seed", 0, "of sampling, and of a preset's weights")
	f.StringVar(&precision, "precision", "f32", "compute in f32 or bf16")
	f.IntVar(&o.Threads, "threads", 0, "CPU threads; 0 is one per core")
	f.BoolVar(&stats, "stats", false, "print times to standard error at the end")
	return c
}
