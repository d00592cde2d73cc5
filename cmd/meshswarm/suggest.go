package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
)

// didYouMean is " (did you mean WORD?)" with the word that is most like the wrong one, or nothing when none is near.
func didYouMean(prefix, wrong string, words []string) string {
	best, least := "", max(1, len(wrong)/3)+1
	for _, word := range words {
		d := smetrics.WagnerFischer(strings.ToLower(wrong), word, 1, 1, 1)
		if strings.HasPrefix(word, strings.ToLower(wrong)) && len(wrong) >= 3 {
			d = 1 // the beginning of a long word is near
		}
		if d < least {
			best, least = word, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s%s?)", prefix, best)
}

func commandNames(commands []*cli.Command) (names []string) {
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	return names
}

func flagNames(flags []cli.Flag) (names []string) {
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() {
			continue
		}
		names = append(names, f.Names()[0])
	}
	return names
}
