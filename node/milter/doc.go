// Package milter has content filters look at messages on their way in, over the
// protocol that Sendmail and Postfix speak with them, and carries out what they
// want changed.
package milter
