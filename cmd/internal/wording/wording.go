// Package wording says in plain words what is wrong on a command line, in place of
// the words of the libraries and system calls that found it; sizes and ages it writes as people do.
package wording

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Flag says what a flag's value has to be. It is for SetFlagErrorFunc.
func Flag(_ *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	f := bad.GetFlag()
	want := map[string]string{
		"int": "a whole number", "int32": "a whole number", "int64": "a whole number",
		"uint": "a whole number from 0 on", "uint16": "a whole number from 0 on", "uint32": "a whole number from 0 on",
		"uint64": "a whole number from 0 on", "bool": "true or false", "duration": `a span such as "30s" or "2h"`, "float64": "a number",
	}[f.Value.Type()]
	if want == "" {
		want = f.Value.Type()
	}
	return fmt.Errorf("--%s %q is not %s", f.Name, bad.GetValue(), want)
}

// Missing says which flags are needed, where err is the library's word on that.
func Missing(err error) error {
	names, ok := strings.CutPrefix(err.Error(), "required flag(s) ")
	if names, short := strings.CutSuffix(names, " not set"); ok && short {
		verb := " is missing"
		if strings.Contains(names, ", ") {
			verb = " are missing"
		}
		return errors.New("--" + strings.ReplaceAll(strings.ReplaceAll(names, `"`, ""), ", ", ", --") + verb)
	}
	return err
}

// Form checks arguments as check does, and says what the form of the command is. An
// empty argument is a mistake of a script: no name, address or id is empty.
func Form(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if check != nil && check(c, args) != nil {
			given := fmt.Sprintf("%d arguments are given", len(args))
			if len(args) == 1 {
				given = "1 argument is given"
			}
			return fmt.Errorf("%s: the form is '%s'", given, strings.TrimSpace(c.Parent().CommandPath()+" "+c.Use))
		}
		if slices.Contains(args, "") {
			return errors.New("an argument is empty")
		}
		return nil
	}
}

// Files takes the names of system calls out of what err says of files.
func Files(err error) string {
	text := err.Error()
	var path *fs.PathError
	if errors.As(err, &path) {
		text = strings.ReplaceAll(text, path.Error(), path.Path+": "+path.Err.Error())
	}
	return text
}
