# Everything for whoever has affirming evidence of every kind that was given.
package policy

import rego.v1

default allow := false

allow if {
	count(input.submods) > 0
	every submodule in input.submods {
		submodule["ear.status"] == "affirming"
	}
}
