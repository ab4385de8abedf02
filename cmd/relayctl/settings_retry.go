package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

// retryFlags are when mail is tried again and what notices say, as they were typed.
type retryFlags struct {
	text *string // of the template, once it was read

	rules    []string
	notice   string
	template string
	slow     []string
	srs      string
	newKey   bool
}

func (f *retryFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.rules, "retry", nil, "when to try again, "+
		"'`DOMAIN|.DOMAIN|* [CLASS] first=5m max=4h factor=1.8 expire=5d notice=4h`'; once for each, all anew")
	c.Flags().StringSliceVar(&f.slow, "slow-on", nil,
		"`CLASS`es of replies, such as rate, that make a destination get less at a time; empty: none")
	c.Flags().StringVar(&f.notice, "delay-notice", "",
		"`TIME` after which known senders, and those who asked, are told of a delay; off: never")
	c.Flags().StringVar(&f.template, "notice-template", "",
		"`FILE` with the text of notices, - for standard input; default: the built-in text")
	_ = c.MarkFlagFilename("notice-template")
	c.Flags().StringVar(&f.srs, "srs", "", "local `DOMAIN` of the return addresses (SRS) of what aliases lead elsewhere; "+
		"off: senders stay")
	c.Flags().BoolVar(&f.newKey, "srs-new-key", false, "make all return addresses void that were made so far")
}

// put changes what was named.
func (f *retryFlags) put(c *cobra.Command, s *admin.Settings) error {
	given := c.Flags().Changed
	if given("retry") {
		s.RetryRules = []string{}
		for _, rule := range f.rules {
			if strings.TrimSpace(rule) != "" {
				s.RetryRules = append(s.RetryRules, rule)
			}
		}
	}
	if given("slow-on") {
		s.SlowClasses = append([]string{}, f.slow...)
	}
	if given("delay-notice") {
		n, err := delayFlag(c, "delay-notice", f.notice)
		if err != nil {
			return err
		}
		switch f.notice {
		case "off":
			n = new(int64(-1))
		case "default":
			n = new(int64(0))
		}
		s.DelayNotice = n
	}
	if given("srs") {
		if f.srs == "off" {
			f.srs = ""
		}
		s.SRSDomain = &f.srs
	}
	if f.newKey {
		s.SRSGeneration++
	}
	if given("notice-template") {
		if f.text == nil { // standard input is read once, though the change may be tried again
			text, err := readTemplate(c, f.template)
			if err != nil {
				return err
			}
			f.text = &text
		}
		s.NoticeTemplate = f.text
	}
	return nil
}

// mostTemplate is more than a node takes.
const mostTemplate = 64 << 10

func readTemplate(c *cobra.Command, name string) (string, error) {
	switch name {
	case "default":
		return "", nil
	case "":
		return "", usagef("--notice-template wants a file, -, or default")
	case "-":
		b, err := io.ReadAll(io.LimitReader(c.InOrStdin(), mostTemplate))
		return checkedTemplate(b, "standard input", err)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostTemplate))
	return checkedTemplate(b, name, err)
}

// checkedTemplate refuses a text without any: it would bring the built-in one back, which is said otherwise.
func checkedTemplate(b []byte, from string, err error) (string, error) {
	if err == nil && strings.TrimSpace(string(b)) == "" {
		err = fmt.Errorf("%s is empty: 'relayctl settings set --notice-template default' brings the built-in text back", from)
	}
	return string(b), err
}

// retryWords are the same as names and values.
func retryWords(s *admin.Settings) (words []string) {
	notice := "4h"
	if s.DelayNotice != nil && *s.DelayNotice != 0 {
		notice = "never"
		if *s.DelayNotice > 0 {
			notice = seconds(*s.DelayNotice)
		}
	}
	words = append(words, "delay notice", notice)
	if len(s.SlowClasses) > 0 {
		words = append(words, "slow on", strings.Join(s.SlowClasses, " "))
	}
	if s.SRSDomain != nil && *s.SRSDomain != "" {
		words = append(words, "return addresses", "SRS at "+*s.SRSDomain)
	}
	if s.NoticeTemplate != nil && *s.NoticeTemplate != "" {
		words = append(words, "notice text", fmt.Sprintf("own, %d lines: 'relayctl settings show -o yaml' has it",
			strings.Count(*s.NoticeTemplate, "\n")))
	}
	for i, rule := range s.RetryRules {
		words = append(words, fmt.Sprintf("retry rule %d", i+1), rule)
	}
	return words
}
