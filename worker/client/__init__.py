"""Label Studio and other servers, as jobs need them: clips and annotations in, predictions out."""
