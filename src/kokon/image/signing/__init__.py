"""Image signatures as everyone's tools read them: keys, both forms of cosign, policies, time stamps. Not guest code."""
