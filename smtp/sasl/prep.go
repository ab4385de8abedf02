package sasl

import "github.com/xdg-go/stringprep"

// Prepared is a name or password by SASLprep (RFC 4013), in which clients and
// servers hash it (RFC 5802 section 2.2). Characters younger than SASLprep stay as
// they are, as it has clients take them (section 2.5). A text that can not be prepared
// is returned as it is: it has to serve as a password all the same.
func Prepared(s string) string {
	ascii := true
	for i := range len(s) {
		ascii = ascii && s[i] >= ' ' && s[i] < 0x7f
	}
	if ascii {
		return s
	}
	out, err := profile().Prepare(s)
	if err != nil || out == "" {
		return s
	}
	return out
}

// profile is SASLprep for queries: without the table of unassigned code points.
func profile() stringprep.Profile {
	p := stringprep.SASLprep
	p.Prohibits = []stringprep.Set{
		stringprep.TableC1_2, stringprep.TableC2_1, stringprep.TableC2_2, stringprep.TableC3, stringprep.TableC4,
		stringprep.TableC5, stringprep.TableC6, stringprep.TableC7, stringprep.TableC8, stringprep.TableC9,
	}
	return p
}
