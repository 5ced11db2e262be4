"""Studies: tasks x methods x training seeds on equal terms, as one table (`vdd study`)."""
